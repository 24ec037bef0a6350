"""Frames that are on a GPU already, taken as they are: DLPack, `__cuda_array_interface__` or a raw pointer.

A wrong address given to a GPU does not raise, it ends every later call of the process. So whatever is handed over is
checked first: type, shape, strides, and that the address is this GPU's.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any, Final

import numpy as np

from spacecompile.errors import FrameError, MissingPartError
from spacecompile.runtime.cuda.device import CudaDevice

_DLPACK_ON_GPU: Final = frozenset((2, 13))
"""kDLCUDA and kDLCUDAManaged of dlpack.h."""

LEGACY_STREAM: Final = 1
"""cudaStreamLegacy: the default stream, which torch and cupy work on unless told otherwise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceFrame:
    """A frame in GPU memory. Applications make one from a camera's buffer; arrays of other libraries become one.

    Attributes:
        pointer: Address of the first pixel.
        shape: Extents (H, W, 3).
        dtype: Name of the numpy type; uint8 is the only one that a graph takes.
        strides_bytes: Bytes from one element to the next on each axis; None for rows without gaps. Only the rows may
            have gaps.
        stream: Handle of the stream whose queued work fills the frame, which is waited for on the GPU; 1 for the
            default stream, None for a frame that is there.
        owner: Object that keeps the memory alive; it is held until the answer is taken.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: str = "uint8"
    strides_bytes: tuple[int, ...] | None = None
    stream: int | None = None
    owner: Any = None

    @property
    def pitch_bytes(self) -> int:
        """Bytes from one row to the next."""
        return self.strides_bytes[0] if self.strides_bytes else prod(self.shape[1:])

    @property
    def is_dense(self) -> bool:
        """Whether the rows have no gaps."""
        return self.pitch_bytes == prod(self.shape[1:])


def is_on_device(source: object) -> bool:
    """Whether a caller's frame is in GPU memory, without touching it."""
    if isinstance(source, DeviceFrame):
        return True
    if isinstance(source, np.ndarray):
        return False
    return _is_dlpack_of_gpu(source) or _interface_of(source) is not None


def device_frame_from(source: object, *, stream: int) -> DeviceFrame:
    """What a caller handed over, as a `DeviceFrame`; nothing is copied.

    DLPack goes first: with it the library that owns the array makes `stream` wait for its own work, whichever stream
    that is on. torch's `__cuda_array_interface__` does not say the stream; the default one is waited for then.

    Args:
        source: A `DeviceFrame`, or an array for which `is_on_device` holds.
        stream: Handle of the stream that will read the frame.

    Raises:
        FrameError: If the array's library does not give it out, or what it gives is malformed.
        MissingPartError: If cuda-core, which reads DLPack, is missing.
    """
    if isinstance(source, DeviceFrame):
        return source
    if _is_dlpack_of_gpu(source):
        return _from_dlpack(source, stream)
    interface = _interface_of(source)
    if interface is None:
        raise FrameError(
            f"frame is a {type(source).__module__}.{type(source).__qualname__}, which is not on a GPU. Give an array "
            "with DLPack or __cuda_array_interface__, or a DeviceFrame."
        )
    return _from_interface(interface, source)


def check_device_frame(frame: DeviceFrame, *, size_px: tuple[int, int], device: CudaDevice) -> None:
    """Refuse what the graph does not take.

    Args:
        frame: Frame to check.
        size_px: (height, width) of the graph's frame.
        device: GPU that the graph is on.

    Raises:
        FrameError: If the frame does not fit; the message says what differs.
    """
    shape = (*size_px, 3)
    if frame.dtype != "uint8" or frame.shape != shape:
        raise FrameError(
            f"frame on the GPU has shape {frame.shape} and dtype {frame.dtype}; the bundle expects uint8 {shape} RGB. "
            "Cast or transpose it to contiguous HWC on the GPU."
        )
    row_bytes = prod(shape[1:])
    strides = frame.strides_bytes
    if strides is not None and (len(strides) != 3 or strides[1:] != (3, 1) or strides[0] < row_bytes):
        raise FrameError(
            f"frame on the GPU has strides {strides} in bytes; pixels of a row must lie next to each other: "
            f"({row_bytes} or more, 3, 1). Make it contiguous on the GPU."
        )
    if frame.pointer <= 0:
        raise FrameError("frame on the GPU has no address (0). Check that its memory was allocated.")
    found = device.device_of(frame.pointer)
    if found != device.index:
        where = "in no GPU's memory" if found is None else f"on GPU {found}"
        raise FrameError(
            f"frame at address {frame.pointer:#x} is {where}; the session runs on GPU {device.index}. Copy it there, "
            "or load the session on the other GPU."
        )


def _is_dlpack_of_gpu(source: object) -> bool:
    ask = getattr(source, "__dlpack_device__", None)
    return ask is not None and int(ask()[0]) in _DLPACK_ON_GPU


def _interface_of(source: object) -> Mapping[str, Any] | None:
    try:
        found = getattr(source, "__cuda_array_interface__", None)
    except (RuntimeError, TypeError, ValueError) as error:  # torch: a tensor that requires gradients
        raise FrameError(f"frame can't be read on the GPU: {error}. Detach or copy it first.") from error
    return found if isinstance(found, Mapping) else None


def _from_dlpack(source: object, stream: int) -> DeviceFrame:
    try:
        view_type = import_module("cuda.core.utils").StridedMemoryView
    except ImportError as error:
        raise MissingPartError(
            f"a frame through DLPack needs cuda-core: {error}. Run: pip install 'spacecompile[cuda]'"
        ) from error
    try:
        view = view_type.from_dlpack(source, stream_ptr=stream)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise FrameError(f"frame is not given out through DLPack: {error}. Detach or copy it first.") from error
    try:
        # cuda-core looks at the type only when it is asked for it.
        dtype, strides = view.dtype, view.strides
    except (RuntimeError, TypeError, ValueError) as error:
        raise FrameError(
            f"frame is given out through DLPack in a type that numpy does not have: {error}. Cast it to uint8 on the "
            "GPU."
        ) from error
    return DeviceFrame(
        pointer=int(view.ptr),
        shape=tuple(view.shape),
        dtype=dtype.name,
        strides_bytes=None if strides is None else tuple(stride * dtype.itemsize for stride in strides),
        owner=(source, view),
    )


def _from_interface(interface: Mapping[str, Any], source: object) -> DeviceFrame:
    """From `__cuda_array_interface__`, versions 2 and 3 (numba's documentation, CUDA Array Interface)."""
    try:
        pointer, _ = interface["data"]
        shape = tuple(map(int, interface["shape"]))
        dtype = np.dtype(interface["typestr"]).name
        strides = interface.get("strides")
        stream = interface.get("stream") if interface["version"] >= 3 else LEGACY_STREAM
        masked = interface.get("mask") is not None
    except (KeyError, TypeError, ValueError) as error:
        raise FrameError(f"frame has a malformed __cuda_array_interface__: {error!r}. Copy it first.") from error
    if masked or stream == 0:
        what = "a mask" if masked else "stream 0, which the interface forbids as ambiguous"
        raise FrameError(f"frame has {what} in its __cuda_array_interface__. Copy it first.")
    return DeviceFrame(
        pointer=int(pointer),
        shape=shape,
        dtype=dtype,
        strides_bytes=None if strides is None else tuple(map(int, strides)),
        stream=None if stream is None else int(stream),
        owner=source,
    )
