"""TensorRT and TensorRT-RTX: a plan, deserialised once its hash and its sidecar were found to fit this machine.

Written to the API that TensorRT 10.12 and later, 11 and TensorRT-RTX share; a test checks every name. In it a variable
is called after its class (`runtime`, `engine`, `context`). It has not run on a GPU yet.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from spacecompile.contract import INPUT_NAME, Precision
from spacecompile.errors import DeviceError, DeviceMemoryError, IntegrityError, MissingPartError
from spacecompile.runtime.backend import (
    Backend,
    GpuOptions,
    GraphSignature,
    GraphTensor,
    require_threads,
    signature_from_tensors,
)
from spacecompile.runtime.cuda.backend import CudaBackend
from spacecompile.runtime.cuda.bindings import open_device
from spacecompile.runtime.cuda.compatibility import (
    check_plan_bytes,
    check_plan_fits,
    facts_from_sidecar,
    rebuild_command,
)
from spacecompile.runtime.cuda.device import active
from spacecompile.runtime.cuda.engine_api import (
    EngineApi,
    EngineKind,
    collected_errors,
    load_engine_api,
    logger_of,
    sentence_of,
)

_NO_ROOM: Final = re.compile(r"out ?of ?memory|cudaErrorMemoryAllocation|failed to allocate", re.IGNORECASE)
_REMEDY_ROOM: Final = "Free memory on the GPU, or load with fewer frames in flight."

_DTYPES: Final = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8"}


class _TensorRtEngine:
    """See `CudaEngine`. A context takes its frame from any address, and is captured in graphs of ours."""

    takes_any_address = True
    captures_itself = False
    graph_problem = ""

    def __init__(self, plan: bytes, api: EngineApi, *, host_code: bool = False) -> None:
        """Deserialise a plan that was checked.

        Args:
            plan: The library's own bytes.
            api: Library that deserialises and runs the plan.
            host_code: Whether the plan may bring code for the host, as a version-compatible one does.

        Raises:
            DeviceMemoryError: If the GPU has no room for it.
            IntegrityError: If the library refuses the plan, or it is no sealed graph.
        """
        self.name = api.kind
        self.version = api.version
        self._api = api
        trt = api.trt
        with collected_errors(api) as errors:
            runtime = trt.Runtime(logger_of(trt))
            runtime.engine_host_code_allowed = host_code
            engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            text = "\n".join(errors)
            if _NO_ROOM.search(text):
                raise _no_room(f"{api.title} can't load the plan", text)
            raise IntegrityError(
                f"{api.title} refuses the plan: {sentence_of(text)}. Build the bundle again, or run "
                f"`{rebuild_command('BUNDLE', api.kind)}`."
            )
        # The runtime has to outlive its engine.
        self._runtime, self._engine = runtime, engine
        self.signature = _signature(engine, trt)

    def context(self, stream: int, addresses: Mapping[str, int]) -> _TensorRtContext:
        """See `CudaEngine`."""
        engine = self._engine
        with collected_errors(self._api) as errors:
            context = engine.create_execution_context()
        if context is None:
            raise _device_error(errors, f"{self._api.title} can't make an execution context", _REMEDY_ROOM)
        return _TensorRtContext(context, self._api, stream, addresses)

    def close(self) -> None:
        """See `CudaEngine`."""
        self._engine = self._runtime = None


class _TensorRtContext:
    """See `EngineContext`. Whatever the library answers is looked at: it does not raise."""

    def __init__(self, context: Any, api: EngineApi, stream: int, addresses: Mapping[str, int]) -> None:
        """Set the address of every tensor.

        Raises:
            DeviceError: If the library refuses one.
        """
        self._context = context
        self._api = api
        self._stream = stream
        for name, pointer in addresses.items():
            self._set(name, pointer)
        self._input_pointer = addresses[INPUT_NAME]

    def bind_input(self, pointer: int) -> None:
        """See `EngineContext`."""
        if pointer != self._input_pointer:
            self._set(INPUT_NAME, pointer)
            self._input_pointer = pointer

    def enqueue(self) -> None:
        """See `EngineContext`."""
        context = self._context
        with collected_errors(self._api) as errors:
            is_queued = context.execute_async_v3(self._stream)
        if not is_queued:
            raise _device_error(
                errors,
                f"{self._api.title} did not queue the run",
                "Check the GPU with nvidia-smi; if that is not it, verify the bundle with `spacecompile verify`.",
            )

    def close(self) -> None:
        """See `EngineContext`."""
        self._context = None

    def _set(self, name: str, pointer: int) -> None:
        context = self._context
        with collected_errors(self._api) as errors:
            is_set = context.set_tensor_address(name, pointer)
        if not is_set:
            raise DeviceError(
                f"{self._api.title} refuses the address {pointer:#x} for {name}: {sentence_of(chr(10).join(errors))}. "
                "Verify the bundle with `spacecompile verify`."
            )


def _device_error(errors: Sequence[str], what: str, remedy: str) -> DeviceError:
    """The typed error of what the library logged."""
    text = "\n".join(errors)
    if _NO_ROOM.search(text):
        return _no_room(what, text)
    return DeviceError(f"{what}: {sentence_of(text)}. {remedy}")


def _no_room(what: str, text: str) -> DeviceMemoryError:
    """The typed error of a GPU without room."""
    return DeviceMemoryError(f"{what}: {sentence_of(text)}. {_REMEDY_ROOM}")


def _signature(engine: Any, trt: Any) -> GraphSignature:
    """Signature of a deserialised engine."""
    tensors: dict[bool, list[GraphTensor]] = {True: [], False: []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name)
        tensor = GraphTensor(
            name=name, dtype=_DTYPES.get(dtype.name, dtype.name.lower()), shape=tuple(engine.get_tensor_shape(name))
        )
        tensors[engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT].append(tensor)
    return signature_from_tensors(tensors[True], tensors[False])


def _backend_of(
    kind: EngineKind,
    model_bytes: bytes,
    *,
    precision: Precision = "fp32",  # noqa: ARG001  the plan holds its types
    threads: int,
    spinning: bool,  # noqa: ARG001  it has no threads of its own
    cache: bool = True,  # noqa: ARG001  it keeps nothing
    gpu: GpuOptions | None = None,
) -> Backend:
    """See `registry.BackendFactory` and `_open`."""
    return _open(model_bytes, kind, threads, gpu or GpuOptions())


tensorrt_backend = partial(_backend_of, "tensorrt")
tensorrt_rtx_backend = partial(_backend_of, "tensorrt-rtx")


def _open(plan: bytes, kind: EngineKind, threads: int, options: GpuOptions) -> Backend:
    """Check the plan against its sidecar and this machine, in that order, and only then hand it to the library."""
    require_threads(threads)
    if options.sidecar is None:
        raise IntegrityError("the plan has no sidecar that says what it was built for. Build the bundle again.")
    facts = facts_from_sidecar(options.sidecar, "the plan's sidecar")
    check_plan_bytes(plan, facts, bundle=options.bundle)
    api = load_engine_api(kind)
    if api.device is None:
        raise MissingPartError(f"{api.title} is here, but no GPU to run on. Choose a backend for the CPU.")
    check_plan_fits(
        facts,
        engine=kind,
        library_version=api.version,
        gpu=api.device,
        frame_size_px=options.frame_size_px,
        bundle=options.bundle,
    )
    device = open_device(options.device_index)
    with active(device):
        engine = _TensorRtEngine(plan, api, host_code=facts.options.version_compatible)
        return CudaBackend(engine, device, in_flight=options.in_flight, timed=options.timed)
