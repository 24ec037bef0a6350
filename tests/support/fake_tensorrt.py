"""TensorRT's runtime without a GPU: a plan is an ONNX file, run by ONNX Runtime on the memory of a `FakeDevice`.

It has the names that `runtime.backends.tensorrt_` may use and no others; a test compares them with the recorded lists.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from enum import Enum
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDevice

from spacecompile.runtime.backends import onnxruntime_cuda_, registry, tensorrt_
from spacecompile.runtime.backends.onnxruntime_ import ORT_ERRORS, ort, session_options
from spacecompile.runtime.cuda.driver import GpuFacts
from spacecompile.runtime.cuda.engine_api import EngineApi, EngineKind

VERSION = "11.4.0.106"
GPU = GpuFacts(gpu="Fake GPU", compute_capability="9.0", cuda="13.1", driver="590.1")


class DataType(Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 2


class TensorIOMode(Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)


DTYPES = {"tensor(uint8)": DataType.UINT8, "tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF}


def fake_api(device: FakeDevice, *, kind: EngineKind = "tensorrt", version: str = VERSION) -> EngineApi:
    """An `EngineApi` on a fake device; `api.trt.orders` is what shall fail."""
    orders: dict[str, bool] = {}

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            self.log = logger

        def deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
            if orders.pop("plan", False):
                self.log.log(ILogger.ERROR, "[fake.cpp:0: deserialize] Error Code 2: OutOfMemory (no room for 2 GiB)")
                return None
            try:
                return ICudaEngine(plan, device, self.log, orders)
            except ORT_ERRORS as error:
                self.log.log(ILogger.ERROR, f"[fake.cpp:1: deserialize] Error Code 1: Serialization ({error})")
                return None

    trt = type("tensorrt", (), {"Runtime": Runtime, "ILogger": ILogger, "TensorIOMode": TensorIOMode, "orders": orders})
    return EngineApi(kind=kind, trt=trt, version=version, cuda="13", device=GPU)


def sidecar_of(plan: bytes, *, frame_size_px: tuple[int, int] = (96, 128), **changes: Any) -> bytes:
    """What the build would write beside a plan of `fake_api`, with changes."""
    facts: dict[str, Any] = {
        "engine": "tensorrt",
        "library_version": VERSION,
        "library_cuda": "13",
        "cuda": GPU.cuda,
        "driver": GPU.driver,
        "gpu": GPU.gpu,
        "compute_capability": GPU.compute_capability,
        "target": "sm90",
        "options": {"version_compatible": False, "hardware_compatibility": "none"},
        "profile": {"frame": (*frame_size_px, 3)},
        "onnx_sha256": hashlib.sha256(plan).hexdigest(),
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
        "plan_bytes": len(plan),
    }
    return json.dumps(facts | changes).encode()


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, device: FakeDevice) -> None:
    """Make the backends for a GPU present, on a fake device.

    ONNX Runtime's CUDA backend runs the CPU provider there, which works at once: its device can't be late.

    Args:
        monkeypatch: Of the test.
        folder: For the file by which ONNX Runtime's package for GPUs is known.
        device: That is opened.
    """
    library = folder / "capi" / "libonnxruntime_providers_cuda.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    library.write_bytes(b"")

    def find_spec(name: str) -> ModuleSpec | None:
        if name not in ("tensorrt", "onnxruntime"):
            return importlib.util.find_spec(name)
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec

    monkeypatch.setattr(registry, "find_spec", find_spec)
    for module in (onnxruntime_cuda_, tensorrt_):
        monkeypatch.setattr(module, "open_device", lambda _: device)
    on_the_cpu = onnxruntime_cuda_.Provider(name="CPUExecutionProvider", device_type="cpu")
    monkeypatch.setattr(onnxruntime_cuda_, "CUDA_PROVIDER", on_the_cpu)
    api = fake_api(device)
    monkeypatch.setattr(tensorrt_, "load_engine_api", lambda _: api)


class ICudaEngine:
    def __init__(self, plan: bytes, device: FakeDevice, log: Any, orders: dict[str, bool]) -> None:
        self._session = ort.InferenceSession(plan, session_options(1, False), providers=["CPUExecutionProvider"])
        self._device, self._log, self._orders = device, log, orders
        self._inputs = {node.name: node for node in self._session.get_inputs()}
        self._nodes = self._inputs | {node.name: node for node in self._session.get_outputs()}

    @property
    def num_io_tensors(self) -> int:
        return len(self._nodes)

    def get_tensor_name(self, index: int) -> str:
        return list(self._nodes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DTYPES[self._nodes[name].type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._nodes[name].shape)

    def create_execution_context(self) -> IExecutionContext | None:
        if self._orders.pop("context", False):
            self._log.log(ILogger.ERROR, "[fake.cpp:2: context] Error Code 2: OutOfMemory (no room for 1 GiB)")
            return None
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._engine._orders.pop("address", False):
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine = self._engine
        if engine._orders.pop("enqueue", False):
            engine._log.log(ILogger.ERROR, "[fake.cpp:3: enqueue] Error Code 1: Cask (cannot launch a kernel)")
            return False
        addresses = dict(self._addresses)
        engine._device.queue(stream_handle, lambda: self._run(addresses))
        return True

    def _run(self, addresses: dict[str, int]) -> None:
        engine = self._engine
        (frame,) = engine._inputs.values()
        shape = tuple(frame.shape)
        content = engine._device.bytes_at(addresses[frame.name], int(np.prod(shape))).reshape(shape)
        names = [name for name in engine._nodes if name not in engine._inputs]
        for name, value in zip(names, engine._session.run(names, {frame.name: content}), strict=True):
            engine._device.bytes_at(addresses[name], value.nbytes)[:] = value.reshape(-1).view(np.uint8)
