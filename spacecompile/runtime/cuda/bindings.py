"""`CudaDevice` on NVIDIA's own Python bindings: the one place that calls CUDA.

The runtime API of `cuda-bindings` is used and not `cuda-core`'s classes: it shares the primary context with TensorRT
and ONNX Runtime by itself, and takes the same arguments in cuda-bindings 12.8 and 13.5.
"""

from __future__ import annotations

import ctypes
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spacecompile.errors import DeviceError, DeviceLostError, DeviceMemoryError, MissingPartError
from spacecompile.runtime.cuda.device import active

STICKY_ERRORS: Final = frozenset(
    (
        *("cudaErrorIllegalAddress", "cudaErrorLaunchTimeout", "cudaErrorHardwareStackError", "cudaErrorAssert"),
        *("cudaErrorIllegalInstruction", "cudaErrorMisalignedAddress", "cudaErrorInvalidAddressSpace"),
        *("cudaErrorInvalidPc", "cudaErrorLaunchFailure", "cudaErrorECCUncorrectable", "cudaErrorTensorMemoryLeak"),
        *("cudaErrorContained", "cudaErrorMpsClientTerminated", "cudaErrorExternalDevice"),
    )
)
"""CUDA Runtime API, 6.36 Data types: those of cudaError whose description ends "the process must be terminated and
relaunched", and an uncorrectable memory error."""

_REMEDY_LOST: Final = "Nothing on this GPU works in this process any more: end it and load the bundle in a new one."


def open_device(index: int = 0) -> CudaBindingsDevice:
    """The GPU of an index, once CUDA has said that it is there.

    Raises:
        MissingPartError: If the bindings, a driver or that GPU is missing.
    """
    if not has_bindings():
        raise MissingPartError("CUDA is called through cuda-bindings. Run: pip install 'spacecompile[cuda]'")
    try:
        api = import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise MissingPartError(
            f"cuda-bindings is installed but can't be imported: {error}. "
            "Run: pip install --force-reinstall 'spacecompile[cuda]'"
        ) from error
    try:
        code, count = api.cudaGetDeviceCount()
    except RuntimeError as error:  # without a driver cuda-bindings 12.8 raises instead of giving a code
        raise MissingPartError(
            f"CUDA can't be called: {error}. Install NVIDIA's driver, or use a backend for the CPU."
        ) from error
    if code != api.cudaError_t.cudaSuccess:
        raise MissingPartError(
            f"CUDA finds no GPU that it can use ({code.name}: {_text(api, code)}). Check NVIDIA's driver with "
            "nvidia-smi, or use a backend for the CPU."
        )
    if not 0 <= index < count:
        raise MissingPartError(f"there is no GPU {index}: CUDA sees {count}. Choose another with --device.")
    device = CudaBindingsDevice(api, index)
    device.restore(device.activate())
    return device


def has_bindings() -> bool:
    """Whether cuda-bindings is installed; imports nothing of it but the namespace `cuda`."""
    return find_spec("cuda") is not None and find_spec("cuda.bindings") is not None


class CudaBindingsDevice:
    """See `CudaDevice`. Has not run on a GPU yet; its calls were checked against cuda-bindings 13.5."""

    def __init__(self, api: Any, index: int) -> None:
        """Take the module `cuda.bindings.runtime`; users call `open_device`."""
        self._api = api
        self._index = index

    @property
    def index(self) -> int:
        """See `CudaDevice`."""
        return self._index

    def activate(self) -> int:
        """See `CudaDevice`."""
        before = int(self._value(self._api.cudaGetDevice()))
        if before != self._index:
            self._done(self._api.cudaSetDevice(self._index))
        return before

    def restore(self, index: int) -> None:
        """See `CudaDevice`."""
        if index != self._index:
            self._done(self._api.cudaSetDevice(index))

    def allocate(self, num_bytes: int) -> int:
        """See `CudaDevice`."""
        return int(self._value(self._api.cudaMalloc(num_bytes)))

    def free(self, pointer: int) -> None:
        """See `CudaDevice`."""
        self._done(self._api.cudaFree(pointer))

    def allocate_pinned(self, num_bytes: int) -> NDArray[Any]:
        """See `CudaDevice`."""
        pointer = int(self._value(self._api.cudaHostAlloc(num_bytes, self._api.cudaHostAllocDefault)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(pointer))

    def free_pinned(self, buffer: NDArray[Any]) -> None:
        """See `CudaDevice`."""
        self._done(self._api.cudaFreeHost(buffer.ctypes.data))

    def create_stream(self) -> int:
        """See `CudaDevice`."""
        return int(self._value(self._api.cudaStreamCreateWithFlags(self._api.cudaStreamNonBlocking)))

    def destroy_stream(self, stream: int) -> None:
        """See `CudaDevice`."""
        self._done(self._api.cudaStreamDestroy(stream))

    def create_event(self, *, timed: bool = False) -> int:
        """See `CudaDevice`."""
        flags = self._api.cudaEventDefault if timed else self._api.cudaEventDisableTiming
        return int(self._value(self._api.cudaEventCreateWithFlags(flags)))

    def destroy_event(self, event: int) -> None:
        """See `CudaDevice`."""
        self._done(self._api.cudaEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        """See `CudaDevice`."""
        self._done(self._api.cudaEventRecord(event, stream))

    def record_in_graph(self, event: int, stream: int) -> None:
        """See `CudaDevice`. Without the flag the event would only order work within the capture."""
        self._done(self._api.cudaEventRecordWithFlags(event, stream, self._api.cudaEventRecordExternal))

    def elapsed_ms(self, start: int, end: int) -> float:
        """See `CudaDevice`."""
        return float(self._value(self._api.cudaEventElapsedTime(start, end)))

    def wait(self, stream: int, event: int) -> None:
        """See `CudaDevice`."""
        self._done(self._api.cudaStreamWaitEvent(stream, event, 0))

    def is_reached(self, event: int) -> bool:
        """See `CudaDevice`."""
        (code,) = self._api.cudaEventQuery(event)
        if code == self._api.cudaError_t.cudaErrorNotReady:
            return False
        self._done((code,))
        return True

    def synchronize(self, event: int) -> None:
        """See `CudaDevice`."""
        self._done(self._api.cudaEventSynchronize(event))

    def copy_in(self, pointer: int, host: NDArray[Any], stream: int) -> None:
        """See `CudaDevice`."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._done(self._api.cudaMemcpyAsync(pointer, host.ctypes.data, host.nbytes, kind, stream))

    def copy_out(self, host: NDArray[Any], pointer: int, stream: int) -> None:
        """See `CudaDevice`."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._done(self._api.cudaMemcpyAsync(host.ctypes.data, pointer, host.nbytes, kind, stream))

    def copy_rows(self, target: int, source: int, *, row_bytes: int, pitch_bytes: int, rows: int, stream: int) -> None:
        """See `CudaDevice`."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._done(self._api.cudaMemcpy2DAsync(target, row_bytes, source, pitch_bytes, row_bytes, rows, kind, stream))

    def begin_capture(self, stream: int) -> None:
        """See `CudaDevice`. Only calls of this thread are watched: another session may allocate meanwhile."""
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._done(self._api.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: int) -> int:
        """See `CudaDevice`."""
        graph = self._value(self._api.cudaStreamEndCapture(stream))
        try:
            return int(self._value(self._api.cudaGraphInstantiate(graph, 0)))
        finally:
            self._done(self._api.cudaGraphDestroy(graph))

    def launch(self, graph: int, stream: int) -> None:
        """See `CudaDevice`."""
        self._done(self._api.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        """See `CudaDevice`."""
        self._done(self._api.cudaGraphExecDestroy(graph))

    def device_of(self, pointer: int) -> int | None:
        """See `CudaDevice`."""
        facts = self._value(self._api.cudaPointerGetAttributes(pointer))
        kinds = self._api.cudaMemoryType
        on_gpu = facts.type in (kinds.cudaMemoryTypeDevice, kinds.cudaMemoryTypeManaged)
        return int(facts.device) if on_gpu else None

    def free_bytes(self) -> int:
        """See `CudaDevice`."""
        with active(self):
            code, free, _ = self._api.cudaMemGetInfo()
            self._done((code,))
        return int(free)

    def _value(self, result: tuple[Any, Any]) -> Any:
        code, value = result
        self._done((code,))
        return value

    def _done(self, result: tuple[Any]) -> None:
        (code,) = result
        if code == self._api.cudaError_t.cudaSuccess:
            return
        # An error that does not stick is kept by CUDA until it is asked for, and would be blamed on a later call.
        self._api.cudaGetLastError()
        raise error_of(code.name, _text(self._api, code), gpu=self._index)


def error_of(name: str, text: str, *, gpu: int) -> DeviceError:
    """The typed error of a CUDA error.

    Args:
        name: CUDA's name of the error, for example cudaErrorIllegalAddress.
        text: CUDA's sentence about the error.
        gpu: Index of the GPU.
    """
    seen = f"GPU {gpu} reports {name} ({text})."
    if name in STICKY_ERRORS:
        return DeviceLostError(f"{seen} {_REMEDY_LOST}")
    if name == "cudaErrorMemoryAllocation":
        return DeviceMemoryError(f"{seen} Free memory on the GPU, or load with fewer frames in flight.")
    return DeviceError(f"{seen} Check the GPU with nvidia-smi, then load the bundle again.")


def _text(api: Any, code: Any) -> str:
    _, text = api.cudaGetErrorString(code)
    return str(text.decode()) if text else "no description"
