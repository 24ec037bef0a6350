"""ONNX Runtime's CUDA provider: tensors bound to our own GPU buffers, and the provider's own CUDA graph.

A session of ONNX Runtime belongs to one stream, so each frame in flight has one, with its own copy of the weights.
Written to the options that onnxruntime-gpu documents; it has not run on a GPU yet. Tests run it with the CPU provider
on a fake device, where the buffers are the host's.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final

from spacecompile.contract import INPUT_NAME, Precision
from spacecompile.errors import DeviceError, DeviceLostError, DeviceMemoryError, MissingPartError, UsageError
from spacecompile.runtime.backend import Backend, GpuOptions, GraphSignature, require_threads, sealed_tensors
from spacecompile.runtime.backends.onnxruntime_ import (
    ORT_ERRORS,
    first_line,
    open_session,
    ort,
    refused_graph,
    session_options,
    signature_of,
)
from spacecompile.runtime.cuda.backend import CudaBackend
from spacecompile.runtime.cuda.bindings import error_of, open_device
from spacecompile.runtime.cuda.device import active

_log = logging.getLogger(__name__)

_CUDA_FAILURE: Final = re.compile(r"CUDA failure (\d+): ([^;]*)")
_NO_ROOM: Final = re.compile(r"Failed to allocate memory|out of memory", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Provider:
    """Where a session runs.

    Attributes:
        name: ONNX Runtime's name of the execution provider.
        device_type: ONNX Runtime's name of the device whose memory the tensors are bound to.
        has_graph: Whether the provider can replay a CUDA graph of its own.
    """

    name: str
    device_type: str
    has_graph: bool = False

    def options(self, device_index: int, stream: int, *, graph: bool) -> dict[str, str]:
        """The provider's options, all of them text."""
        if self.device_type != "cuda":
            return {}
        return {
            "device_id": str(device_index),
            "user_compute_stream": str(stream),
            "enable_cuda_graph": "1" if graph else "0",
            # float32 stays float32; see `export.engine.options.configure`.
            "use_tf32": "0",
        }


CUDA_PROVIDER: Final = Provider(name="CUDAExecutionProvider", device_type="cuda", has_graph=True)


class OnnxRuntimeCudaEngine:
    """See `CudaEngine`. The provider's graph holds addresses, so a caller's frame is copied to ours on the GPU."""

    name = "onnxruntime-cuda"
    version: str = ort.__version__
    takes_any_address = False
    captures_itself = True

    def __init__(
        self,
        model_bytes: bytes,
        *,
        threads: int,
        spinning: bool,
        device_index: int,
        provider: Provider,
    ) -> None:
        """Read the graph's tensors.

        Args:
            model_bytes: Content of a self-contained ONNX file.
            threads: Number of threads per operator that the provider leaves to the CPU.
            spinning: Whether idle threads wait busily.
            device_index: Index of the GPU.
            provider: Provider that runs the graph.

        Raises:
            UsageError: If `threads` is below one.
            IntegrityError: If the bytes are no sealed graph, or need a newer ONNX Runtime.
        """
        require_threads(threads)
        self._model_bytes: bytes | None = model_bytes
        self._threads, self._spinning = threads, spinning
        self._device_index, self._provider = device_index, provider
        self._graph_problem = ""
        # The session for a stream can't be made before there is one; on the CPU, unoptimised, reading is quick.
        options = session_options(1, False)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = open_session(model_bytes, options, "CPUExecutionProvider")
        except ORT_ERRORS as error:
            raise refused_graph(error) from error
        self.signature = signature_of(session)

    @property
    def graph_problem(self) -> str:
        """See `CudaEngine`."""
        return self._graph_problem

    def context(self, stream: int, addresses: Mapping[str, int]) -> _OnnxRuntimeCudaContext:
        """See `CudaEngine`.

        Raises:
            MissingPartError: If ONNX Runtime would run on the CPU instead: it says so in its log only.
        """
        provider = self._provider
        session = self._session_on(stream)
        if provider.name not in session.get_providers():
            raise MissingPartError(
                f"ONNX Runtime {ort.__version__} can't load {provider.name} and would run on the CPU instead. Install "
                "the CUDA and cuDNN that it names: pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        return _OnnxRuntimeCudaContext(
            session, self.signature, addresses, device_type=provider.device_type, device_index=self._device_index
        )

    def _session_on(self, stream: int) -> Any:
        """With the provider's CUDA graph if the whole graph runs on it: with one node on the CPU it refuses to load."""
        if self._provider.has_graph and not self._graph_problem:
            try:
                return self._opened(stream, graph=True)
            except (DeviceMemoryError, DeviceLostError):
                raise
            except DeviceError as error:
                session = self._opened(stream, graph=False)
                self._graph_problem = str(error)
                _log.warning("no CUDA graph, ONNX Runtime queues every node by itself: %s", error)
                return session
        return self._opened(stream, graph=False)

    def _opened(self, stream: int, *, graph: bool) -> Any:
        provider = self._provider
        try:
            return open_session(
                self._model_bytes,
                session_options(self._threads, self._spinning),
                provider.name,
                provider.options(self._device_index, stream, graph=graph),
            )
        except ORT_ERRORS as error:
            raise _device_error_of(error, gpu=self._device_index) from error

    def close(self) -> None:
        """See `CudaEngine`."""
        self._model_bytes = None


class _OnnxRuntimeCudaContext:
    """See `EngineContext`: one session with its tensors bound once."""

    def __init__(
        self,
        session: Any,
        signature: GraphSignature,
        addresses: Mapping[str, int],
        *,
        device_type: str,
        device_index: int,
    ) -> None:
        """Bind every tensor."""
        self._session = session
        self._device_index = device_index
        self._input_pointer = addresses[INPUT_NAME]
        self._binding = session.io_binding()
        place = (device_type, device_index)
        for tensor in sealed_tensors(signature):
            bind = self._binding.bind_input if tensor.name == INPUT_NAME else self._binding.bind_output
            bind(tensor.name, *place, tensor.dtype, tensor.shape, addresses[tensor.name])
        self._run_options = ort.RunOptions()
        # Else every run would wait for the GPU on the host.
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind_input(self, pointer: int) -> None:
        """See `EngineContext`; the address is fixed."""
        assert pointer == self._input_pointer, "the engine says that it does not take any address"

    def enqueue(self) -> None:
        """See `EngineContext`."""
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
        except ORT_ERRORS as error:
            raise _device_error_of(error, gpu=self._device_index) from error

    def close(self) -> None:
        """See `EngineContext`."""
        self._binding = self._session = None


@cache
def preload_libraries() -> None:
    """Let ONNX Runtime load CUDA and cuDNN from NVIDIA's packages, once: the system's loader does not look there.

    The empty folder says so; else PyTorch's copies, of another version perhaps, would go first. What it prints goes to
    the log. Before 1.21 it can't, and the libraries have to be on the loader's path.
    """
    preload = getattr(ort, "preload_dlls", None)
    if preload is None:
        return
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            preload(directory="")
    except (OSError, RuntimeError) as error:
        said.write(str(error))
    if said.getvalue():
        _log.info("ONNX Runtime loads CUDA: %s", said.getvalue().strip())


def _device_error_of(error: Exception, *, gpu: int) -> DeviceError:
    """The typed error of what ONNX Runtime raised on a GPU, by the CUDA error in its text."""
    text = str(error)
    found = _CUDA_FAILURE.search(text)
    if found:
        return error_of(_cuda_name(int(found[1])), f"{found[2].strip()}, in ONNX Runtime {ort.__version__}", gpu=gpu)
    if _NO_ROOM.search(text):
        return DeviceMemoryError(
            f"ONNX Runtime {ort.__version__} is out of memory on GPU {gpu}: {first_line(error)} Free memory on the "
            "GPU, or load with fewer frames in flight."
        )
    return DeviceError(
        f"ONNX Runtime {ort.__version__} failed on GPU {gpu}: {first_line(error)} Check the GPU with nvidia-smi; if "
        "that is not it, verify the bundle with `spacecompile verify`."
    )


def _cuda_name(code: int) -> str:
    try:
        name: str = import_module("cuda.bindings.runtime").cudaError_t(code).name
    except (ImportError, ValueError):
        return f"CUDA error {code}"
    return name


def onnxruntime_cuda_backend(
    model_bytes: bytes,
    *,
    precision: Precision = "fp32",
    threads: int,
    spinning: bool,
    cache: bool = True,  # noqa: ARG001  it keeps nothing
    gpu: GpuOptions | None = None,
) -> Backend:
    """See `registry.BackendFactory`. Of the precisions bf16 is refused."""
    if precision == "bf16":
        raise UsageError("ONNX Runtime's CUDA provider keeps the types of the file. Choose fp32 or fp16.")
    options = gpu or GpuOptions()
    device = open_device(options.device_index)
    preload_libraries()
    with active(device):
        engine = OnnxRuntimeCudaEngine(
            model_bytes,
            threads=threads,
            spinning=spinning,
            device_index=options.device_index,
            provider=CUDA_PROVIDER,
        )
        return CudaBackend(engine, device, in_flight=options.in_flight, timed=options.timed)
