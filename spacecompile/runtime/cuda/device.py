"""The part of CUDA that the runtime uses, as an interface: memory, streams, events and graphs of one GPU.

Pointers and handles are plain integers, as every engine takes them. Work is queued on a stream, and an error of queued
work appears at a later call. A fake of this interface drives every state of the runtime in tests without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from numpy.typing import NDArray

from spacecompile.errors import DeviceError


class CudaDevice(Protocol):
    """One GPU. Every method raises `DeviceError`, `DeviceMemoryError` or `DeviceLostError`."""

    @property
    def index(self) -> int:
        """Index of the GPU among those that CUDA_VISIBLE_DEVICES leaves."""

    def activate(self) -> int:
        """Make the GPU the calling thread's, which CUDA keeps per thread. Returns the index of the one before."""

    def restore(self, index: int) -> None:
        """Make another GPU the calling thread's again."""

    def allocate(self, num_bytes: int) -> int:
        """Device memory, aligned to 256 bytes at least. Returns its address."""

    def free(self, pointer: int) -> None:
        """Give device memory back."""

    def allocate_pinned(self, num_bytes: int) -> NDArray[Any]:
        """Page-locked host memory as uint8 [num_bytes]: only such memory is copied asynchronously."""

    def free_pinned(self, buffer: NDArray[Any]) -> None:
        """Give page-locked memory back; the array must not be used after it."""

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""

    def create_event(self, *, timed: bool = False) -> int:
        """An event; between two that are timed, `elapsed_ms` can be asked for."""

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""

    def record(self, event: int, stream: int) -> None:
        """Queue an event behind the work of a stream."""

    def record_in_graph(self, event: int, stream: int) -> None:
        """Note an event down between `begin_capture` and `end_capture`: every launch of the graph records it anew."""

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds of the GPU's clock between two timed events that both have come to pass."""

    def wait(self, stream: int, event: int) -> None:
        """Let later work of a stream wait for an event."""

    def is_reached(self, event: int) -> bool:
        """Whether an event has come to pass; true for one that was never recorded."""

    def synchronize(self, event: int) -> None:
        """Wait for an event on the host."""

    def copy_in(self, pointer: int, host: NDArray[Any], stream: int) -> None:
        """Queue a copy of a whole contiguous host array to the device."""

    def copy_out(self, host: NDArray[Any], pointer: int, stream: int) -> None:
        """Queue a copy from the device that fills a contiguous host array."""

    def copy_rows(self, target: int, source: int, *, row_bytes: int, pitch_bytes: int, rows: int, stream: int) -> None:
        """Queue a copy on the device of rows that lie `pitch_bytes` apart to rows without gaps."""

    def begin_capture(self, stream: int) -> None:
        """From here to `end_capture` work of a stream is noted down instead of done."""

    def end_capture(self, stream: int) -> int:
        """A graph of the work that was noted down. The stream is usable again, also after an error."""

    def launch(self, graph: int, stream: int) -> None:
        """Queue a graph as one piece of work."""

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph."""

    def device_of(self, pointer: int) -> int | None:
        """Index of the GPU that an address belongs to; None for memory that is no GPU's."""

    def free_bytes(self) -> int:
        """Unused memory of the GPU."""


@contextmanager
def active(device: CudaDevice) -> Iterator[None]:
    """The GPU is the calling thread's while the block runs, and the caller's own choice is afterwards.

    Every entry from outside goes through this.

    Raises:
        DeviceError: If the GPU can't be made the thread's.
    """
    before = device.activate()
    try:
        yield
    finally:
        # On a lost GPU nothing can be restored, and the error that says so is on its way already.
        with suppress(DeviceError):
            device.restore(before)
