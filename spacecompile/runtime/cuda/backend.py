"""A backend on a GPU: N slots, so N frames in flight on N streams.

Layout legend: H, W frame rows and columns; C channels (RGB); L classes.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from spacecompile.errors import DeviceError, DeviceLostError, FrameError, UsageError
from spacecompile.runtime.backend import DeviceRawAnswer, GpuTimes, RawAnswer
from spacecompile.runtime.cuda.device import CudaDevice, active
from spacecompile.runtime.cuda.engine import CudaEngine
from spacecompile.runtime.cuda.slot import Slot
from spacecompile.runtime.cuda.source import DeviceFrame, device_frame_from

_T = TypeVar("_T")
_DeviceErrorT = TypeVar("_DeviceErrorT", bound=DeviceError)

_log = logging.getLogger(__name__)

IN_FLIGHT_MAX: Final = 64
"""Each frame in flight has its own context and buffers; beyond some streams a GPU gains nothing."""


class _Lease:
    """A slot that nobody else may use, until it is released or nobody holds the lease any more."""

    def __init__(self, slot: Slot) -> None:
        """Take a slot."""
        self._slot: Slot | None = slot

    @property
    def is_released(self) -> bool:
        """Whether the slot is free again."""
        return self._slot is None

    def release(self) -> None:
        """Give the slot back. Twice is harmless."""
        self._slot = None

    def slot(self, what: str) -> Slot:
        """The slot.

        Raises:
            UsageError: If the slot was given back; the message begins with `what`.
        """
        if self._slot is None:
            raise UsageError(f"{what} was released, or its session closed: its memory belongs to a later frame.")
        return self._slot


class _DeviceView:
    """An array in GPU memory that other libraries read in place, until it is released.

    It is the session's own buffer, for reading only: the slot that it belongs to answers no further frame until
    `release`, and from then on the view refuses. Whoever needs the content for longer copies it, on the GPU or with
    `to_host`.
    """

    def __init__(self, backend: CudaBackend, lease: _Lease) -> None:
        """View the parts mask of a leased slot; users get a view from an answer."""
        self._backend = backend
        self._lease = lease
        self.shape = backend.signature.frame_size_px
        self.dtype = np.dtype(np.uint8)

    @property
    def pointer(self) -> int:
        """Address of the first pixel."""
        return self._lease.slot("this view").addresses["parts"]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """See `DeviceParts`. The content is there: no stream has to be waited for.

        It does not claim to be read-only, since torch refuses what does; it is not to be written to all the same.
        """
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": None,
        }

    def to_host(self) -> NDArray[np.uint8]:
        """A copy in host memory, the caller's own."""
        return self._backend.guarded(self._lease.slot("this view").fetch_parts)

    def release(self) -> None:
        """End the view, once the caller's own work on the GPU has read it. Releasing twice is harmless."""
        self._lease.release()


class CudaTicket:
    """One frame in flight: a `RawTicket` that gives its slot back when it is dropped."""

    at_once = None

    def __init__(self, backend: CudaBackend, lease: _Lease, *, parts_down: bool) -> None:
        """Take the lease of a frame that was started; users get a ticket from `submit`."""
        self._backend = backend
        self._lease: _Lease | None = lease
        self._parts_down = parts_down
        self._result: RawAnswer | DeviceRawAnswer | None = None
        self._error: DeviceError | None = None
        self.failed_frame_HWC: NDArray[np.uint8] | None = None

    def is_done(self) -> bool:
        """See `RawTicket`. True when the GPU can't say: `result` finds out."""
        if self._lease is None or self._lease.is_released:
            return True
        try:
            return self._backend.guarded(self._lease.slot("this ticket").is_finished)
        except DeviceError:
            return True

    def result(self) -> RawAnswer | DeviceRawAnswer:
        """Wait for the answer; see `RawTicket.result`."""
        if self._error is not None:
            raise _fresh(self._error)
        if self._result is None:
            self._result = self._finished()
        return self._result

    def _finished(self) -> RawAnswer | DeviceRawAnswer:
        lease = self._lease
        assert lease is not None, "without a lease there is a result or an error"
        slot = lease.slot("this ticket")
        try:
            self._backend.guarded(slot.finish)
            self._backend.last_times = self._backend.guarded(slot.times)
        except DeviceError as error:
            self._error, self.failed_frame_HWC = error, slot.host_frame()
            lease.release()
            raise
        small: dict[str, NDArray[np.float32]] = {
            "class_probs_L": slot.output("class_probs"),
            "box_xyxy": slot.output("box_xyxy"),
            "health": slot.output("health"),
        }
        self._lease = None
        if not self._parts_down:
            return DeviceRawAnswer(parts=_DeviceView(self._backend, lease), **small)
        parts_HW = slot.output("parts")
        lease.release()
        return RawAnswer(parts_HW=parts_HW, **small)


class CudaBackend:
    """See `Backend`. Every buffer is allocated when it is made, and none later."""

    takes_device_frames = True

    def __init__(self, engine: CudaEngine, device: CudaDevice, *, in_flight: int = 1, timed: bool = False) -> None:
        """Take over an engine and make its slots.

        Args:
            engine: Engine that is closed with this backend, also when this fails.
            device: GPU that the engine is on.
            in_flight: Number of frames that may be in flight at the same time.
            timed: Whether the GPU's clock times every run.

        Raises:
            UsageError: If `in_flight` is out of range.
            DeviceError: If the GPU has no room.
        """
        self.name, self.version, self.signature = engine.name, engine.version, engine.signature
        self._engine = engine
        self._device = device
        self._lost: DeviceLostError | None = None
        self._is_closed = False
        self.last_times: GpuTimes | None = None
        self._slots: list[Slot] = []
        self._leases: list[weakref.ref[_Lease] | None] = []
        # A backend that is dropped without `close` gives its memory back too. Not when the process ends: CUDA may be
        # gone by then, and the memory goes with the process.
        self._freed = weakref.finalize(self, _free, device, engine, self._slots, os.getpid())
        self._freed.atexit = False
        try:
            if not 1 <= in_flight <= IN_FLIGHT_MAX:
                raise UsageError(f"{in_flight} frames in flight were asked for; give 1 to {IN_FLIGHT_MAX}.")
            with active(device):
                for _ in range(in_flight):
                    self._slots.append(Slot(device, engine, timed=timed))
                    self._leases.append(None)
        except BaseException:
            self.close()
            raise

    @property
    def in_flight_max(self) -> int:
        """Number of frames that may be in flight."""
        return len(self._slots)

    @property
    def free_count(self) -> int:
        """Number of frames that may be submitted now."""
        return sum(_is_free(reference) for reference in self._leases)

    @property
    def graphs(self) -> str:
        """How runs are queued; see `Backend.graphs`."""
        problems = (self._engine.graph_problem, *(slot.graph_problem for slot in self._slots))
        problem = next((text for text in problems if text), "")
        if self._engine.captures_itself and not problem:
            return "captured by the engine"
        return f"none: {problem}" if problem else f"{sum(slot.graph_count for slot in self._slots)} captured"

    def run(self, frame_HWC: NDArray[np.uint8]) -> RawAnswer:
        """Answer one frame; see `Backend.run`."""
        raw = self.submit(frame_HWC).result()
        assert isinstance(raw, RawAnswer)
        return raw

    def warm_up(self, frame_HWC: NDArray[np.uint8]) -> None:
        """Run a frame in every free slot, side by side: each has memory and CUDA graphs of its own to warm up."""
        for ticket in [self.submit(frame_HWC) for _ in range(self.free_count)]:
            ticket.result()

    def submit(self, frame: object, *, parts_on_device: bool = False) -> CudaTicket:
        """Queue one frame; see `Backend.submit`."""
        self._check_open()
        lease = self.guarded(lambda: self._started(frame, parts_down=not parts_on_device))
        return CudaTicket(self, lease, parts_down=not parts_on_device)

    def _started(self, frame: object, *, parts_down: bool) -> _Lease:
        index = self._free_slot()
        slot = self._slots[index]
        if isinstance(frame, np.ndarray):
            self._check_host_frame(frame)
            slot.start_from_host(frame, parts_down=parts_down)
        else:
            device_frame: DeviceFrame = device_frame_from(frame, stream=slot.stream)
            slot.start_from_device(device_frame, parts_down=parts_down)
        lease = _Lease(slot)
        self._leases[index] = weakref.ref(lease)
        return lease

    def guarded(self, call: Callable[[], _T]) -> _T:
        """Call something of the device; an error that sticks closes the door for every later call.

        Raises:
            DeviceError: If the call fails, or the GPU was lost before.
        """
        if self._lost is not None:
            raise _fresh(self._lost)
        try:
            with active(self._device):
                return call()
        except DeviceLostError as error:
            self._lost = error
            raise

    def close(self) -> None:
        """Free the GPU's memory; tickets whose result was not taken and views end. Closing twice is harmless."""
        if self._is_closed:
            return
        self._is_closed = True
        for reference in self._leases:
            lease = reference() if reference is not None else None
            if lease is not None:
                lease.release()
        self._freed()

    def _check_open(self) -> None:
        if self._lost is not None:
            raise _fresh(self._lost)
        if self._is_closed:
            raise UsageError("this backend is closed. Load the bundle again.")

    def _free_slot(self) -> int:
        for index, reference in enumerate(self._leases):
            if _is_free(reference):
                self._leases[index] = None
                if self._slots[index].is_pending:
                    self._await_dropped(self._slots[index])
                return index
        raise UsageError(
            f"{len(self._slots)} frames are in flight or held on the GPU, as many as this session has room for. Take a "
            "ticket's result or release its view first, or load with a larger in_flight."
        )

    def _await_dropped(self, slot: Slot) -> None:
        """Wait for a frame whose ticket was dropped: its buffers are not ours until then."""
        try:
            self.guarded(slot.finish)
        except DeviceLostError:
            raise
        except DeviceError as error:
            # Nobody asked for that frame's answer, and the next frame is not at fault.
            _log.warning("a frame that was given up failed: %s", error)

    def _check_host_frame(self, frame: NDArray[Any]) -> None:
        shape = (*self.signature.frame_size_px, 3)
        if frame.dtype != np.uint8 or frame.shape != shape:
            raise FrameError(f"frame has shape {frame.shape} and dtype {frame.dtype}; the graph takes uint8 {shape}.")


def _is_free(reference: weakref.ref[_Lease] | None) -> bool:
    """Whether nobody holds the lease of a slot any more."""
    lease = reference() if reference is not None else None
    return lease is None or lease.is_released


def _free(device: CudaDevice, engine: CudaEngine, slots: list[Slot], process_id: int) -> None:
    """Free what a backend holds, in the process that made it: a fork has no part in the GPU's memory."""
    if os.getpid() != process_id:
        return
    with ExitStack() as stack:
        with suppress(DeviceError):
            stack.enter_context(active(device))
        for slot in slots:
            slot.close()
        slots.clear()
        engine.close()


def _fresh(error: _DeviceErrorT) -> _DeviceErrorT:
    """The same error again. One that is raised twice would keep the traceback of every time."""
    again = type(error)(*error.args)
    again.__cause__ = error.__cause__
    return again
