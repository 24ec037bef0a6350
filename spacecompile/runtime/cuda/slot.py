"""What one frame in flight needs, allocated once: a stream, buffers on both sides, a context, and its CUDA graphs.

    host frame -> pinned -> [copy in -> engine -> copy out] -> pinned -> the caller's own arrays

What stands in brackets is captured in one CUDA graph after it ran once, and replayed from then on. A graph holds
addresses, so there is one per address that frames come from.

Layout legend: H, W frame rows and columns; C channels (RGB); L classes.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import INPUT_NAME
from spacecompile.errors import DeviceError, DeviceLostError
from spacecompile.runtime.backend import GpuTimes, sealed_tensors
from spacecompile.runtime.cuda.device import CudaDevice
from spacecompile.runtime.cuda.engine import CudaEngine
from spacecompile.runtime.cuda.source import DeviceFrame, check_device_frame

GRAPHS_MAX: Final = 8
"""Graphs of one slot. A camera's ring has fewer buffers; frames from ever new addresses are run without a graph."""

WASTED_MAX: Final = 8
"""Graphs that may be dropped before they paid off. After that no further address is captured."""

_REPLAYS_WORTH: Final = 10
"""A graph that was replayed as often has paid for its capture, which queues one more run, and is no waste."""

_ALIGNMENT_BYTES: Final = 256
"""What cudaMalloc gives. A frame at another address is copied first: engines may read whole vectors."""

_log = logging.getLogger(__name__)


class _Route(NamedTuple):
    """What a graph is made for: where the frame is, and whether the parts mask is copied to the host."""

    origin: Literal["host", "device"]  # our pinned buffer, or device memory
    pointer: int  # the address that the engine reads the frame from
    parts_down: bool


class _Marks(NamedTuple):
    """Timed events of one run, in their order on the stream."""

    begin: int
    frame_in: int
    answered: int
    answer_out: int


@dataclass(kw_only=True)
class _Graph:
    """A CUDA graph, and how often it was replayed."""

    handle: int
    replays: int = 0


class Slot:
    """One frame in flight at a time, used by one thread at a time."""

    def __init__(self, device: CudaDevice, engine: CudaEngine, *, timed: bool = False) -> None:
        """Allocate everything.

        Args:
            device: GPU that the engine is on.
            engine: Engine that is closed after the slot.
            timed: Whether events are recorded around the parts of every run, for `times`.

        Raises:
            DeviceError: If the GPU has no room; what was allocated until then is free again.
        """
        self._device = device
        self._engine = engine
        self._graphs: OrderedDict[_Route, _Graph] = OrderedDict()
        self._seen: OrderedDict[_Route, None] = OrderedDict()
        self._held: object = None
        self._is_from_host = False
        self._is_pending = False
        self._wasted = 0
        self.graph_problem = ""
        self._marks: _Marks | None = None
        with ExitStack() as stack:
            self._allocate(stack)
            if timed:
                self._marks = _Marks(*(self._timed_event(stack) for _ in _Marks._fields))
            self._stack = stack.pop_all()

    def _allocate(self, stack: ExitStack) -> None:
        """Make stream, events, buffers and context; the stack frees them."""
        device, signature = self._device, self._engine.signature
        self._row_bytes = 3 * signature.frame_size_px[1]
        self.stream = device.create_stream()
        stack.callback(device.destroy_stream, self.stream)
        self._done = device.create_event()
        stack.callback(device.destroy_event, self._done)
        self._ready = device.create_event()
        stack.callback(device.destroy_event, self._ready)
        self.addresses: dict[str, int] = {}
        self._host: dict[str, NDArray[Any]] = {}
        for tensor in sealed_tensors(signature):
            self.addresses[tensor.name] = device.allocate(tensor.num_bytes)
            stack.callback(device.free, self.addresses[tensor.name])
            pinned = device.allocate_pinned(tensor.num_bytes)
            stack.callback(device.free_pinned, pinned)
            self._host[tensor.name] = pinned.view(tensor.dtype).reshape(tensor.shape)
        self._frame_HWC = self._host.pop(INPUT_NAME)
        self._context = self._engine.context(self.stream, self.addresses)
        stack.callback(self._context.close)

    def _timed_event(self, stack: ExitStack) -> int:
        event = self._device.create_event(timed=True)
        stack.callback(self._device.destroy_event, event)
        return event

    @property
    def is_pending(self) -> bool:
        """Whether a frame was started that nobody has waited for, or in vain."""
        return self._is_pending

    @property
    def graph_count(self) -> int:
        """CUDA graphs that were captured and are kept."""
        return len(self._graphs)

    def start_from_host(self, frame_HWC: NDArray[np.uint8], *, parts_down: bool) -> None:
        """Queue a frame of the host; it is copied before this returns, so that the caller may overwrite it.

        Raises:
            DeviceError: If the frame can't be queued.
        """
        np.copyto(self._frame_HWC, frame_HWC)
        self._is_from_host = True
        self._run(_Route(origin="host", pointer=self.addresses[INPUT_NAME], parts_down=parts_down))

    def start_from_device(self, frame: DeviceFrame, *, parts_down: bool) -> None:
        """Queue a frame of the device; its memory must stay as it is until `finish`.

        Raises:
            FrameError: If the frame is not what the graph takes.
            DeviceError: If the frame can't be queued.
        """
        device = self._device
        check_device_frame(frame, size_px=self._engine.signature.frame_size_px, device=device)
        self._held, self._is_from_host = frame, False
        if frame.stream is not None:
            device.record(self._ready, frame.stream)
            device.wait(self.stream, self._ready)
        pointer = frame.pointer
        if not (self._engine.takes_any_address and frame.is_dense and pointer % _ALIGNMENT_BYTES == 0):
            pointer = self.addresses[INPUT_NAME]
            device.copy_rows(
                pointer,
                frame.pointer,
                row_bytes=self._row_bytes,
                pitch_bytes=frame.pitch_bytes,
                rows=frame.shape[0],
                stream=self.stream,
            )
        self._run(_Route(origin="device", pointer=pointer, parts_down=parts_down))

    def finish(self) -> None:
        """Wait for the frame that was started.

        Raises:
            DeviceError: If the frame's work failed.
        """
        try:
            self._device.synchronize(self._done)
            self._is_pending = False
        finally:
            self._held = None

    def times(self) -> GpuTimes | None:
        """Times of the finished frame; None for a slot that is not timed.

        Rows of a device frame that lie apart were gathered before, which is not timed.

        Raises:
            DeviceError: If the frame's work failed.
        """
        if self._marks is None:
            return None
        marks, elapsed_ms = self._marks, self._device.elapsed_ms
        return GpuTimes(elapsed_ms(marks.frame_in, marks.answered), elapsed_ms(marks.begin, marks.answer_out))

    def is_finished(self) -> bool:
        """Whether `finish` would return at once.

        Raises:
            DeviceError: If the frame's work failed.
        """
        return self._device.is_reached(self._done)

    def host_frame(self) -> NDArray[np.uint8] | None:
        """A copy of the frame that was started last, for another engine; None if it came from the device."""
        return self._frame_HWC.copy() if self._is_from_host else None

    def output(self, name: str) -> NDArray[Any]:
        """One output of the finished frame, as an array of the caller's own."""
        return self._host[name].copy()

    def fetch_parts(self) -> NDArray[np.uint8]:
        """The parts mask of the finished frame, which stayed on the device.

        Raises:
            DeviceError: If the mask can't be copied.
        """
        self._device.copy_out(self._host["parts"], self.addresses["parts"], self.stream)
        self._device.record(self._done, self.stream)
        self._device.synchronize(self._done)
        return self.output("parts")

    def close(self) -> None:
        """Free everything, after the work in flight has ended. On a lost device there is nothing left to free."""
        with suppress(DeviceError):
            self.finish()
        for graph in self._graphs.values():
            with suppress(DeviceError):
                self._device.destroy_graph(graph.handle)
        self._graphs.clear()
        with suppress(DeviceError):
            self._stack.close()

    def _run(self, route: _Route) -> None:
        """Queue one run; if that fails, wait for what was queued of it: the next frame uses the same buffers."""
        self._is_pending = True
        try:
            self._replay_or_queue(route)
        except DeviceError as error:
            self._drain(error)
            raise

    def _drain(self, cause: DeviceError) -> None:
        """Wait for what is queued after an error; an error that sticks is worse than its cause, and is what counts."""
        try:
            self._device.record(self._done, self.stream)
            self.finish()
        except DeviceLostError as lost:
            raise lost from cause
        except DeviceError as error:
            _log.info("after %s: %s", cause, error)

    def _replay_or_queue(self, route: _Route) -> None:
        """Replayed where there is a graph for it, else call by call and captured for the next time."""
        graph = self._graphs.get(route)
        if graph is not None:
            self._graphs.move_to_end(route)
            graph.replays += 1
            self._device.launch(graph.handle, self.stream)
            self._device.record(self._done, self.stream)
            return
        self._queue(route)
        self._device.record(self._done, self.stream)
        if self._is_worth_a_graph(route):
            self._capture(route)

    def _queue(self, route: _Route, *, captured: bool = False) -> None:
        """Queue copy in, engine and copy out, call by call."""
        device = self._device
        record = device.record_in_graph if captured else device.record

        def mark(place: str) -> None:
            if self._marks is not None:
                record(getattr(self._marks, place), self.stream)

        mark("begin")
        if route.origin == "host":
            device.copy_in(route.pointer, self._frame_HWC, self.stream)
        mark("frame_in")
        self._context.bind_input(route.pointer)
        self._context.enqueue()
        mark("answered")
        for name, host in self._host.items():
            if name != "parts" or route.parts_down:
                device.copy_out(host, self.addresses[name], self.stream)
        mark("answer_out")

    def _is_worth_a_graph(self, route: _Route) -> bool:
        """Our own buffer always is; a caller's address once it comes back, unless there are too many of them."""
        if self._engine.captures_itself or self.graph_problem:
            return False
        if route.pointer == self.addresses[INPUT_NAME]:
            return True
        if self._wasted >= WASTED_MAX:
            return False
        if route in self._seen:
            return True
        self._seen[route] = None
        if len(self._seen) > GRAPHS_MAX:
            self._seen.popitem(last=False)
        return False

    def _capture(self, route: _Route) -> None:
        """Note down the run that was just queued: TensorRT asks for a plain run with the same addresses before it."""
        # A capture that fails costs speed, not answers: the slot goes on without graphs, and says so.
        try:
            graph = self._captured(route)
        except DeviceLostError:
            raise
        except DeviceError as error:
            self.graph_problem = str(error)
            _log.warning("no CUDA graph, every call is queued by itself: %s", error)
            return
        if len(self._graphs) >= GRAPHS_MAX:
            _, oldest = self._graphs.popitem(last=False)
            self._device.synchronize(self._done)
            self._device.destroy_graph(oldest.handle)
            self._wasted += oldest.replays < _REPLAYS_WORTH
            if self._wasted == WASTED_MAX:
                _log.warning("frames come from more than %d addresses: further ones get no CUDA graph", GRAPHS_MAX)
        self._graphs[route] = _Graph(handle=graph)

    def _captured(self, route: _Route) -> int:
        self._device.begin_capture(self.stream)
        try:
            self._queue(route, captured=True)
        except BaseException:
            with suppress(DeviceError):
                self._device.destroy_graph(self._device.end_capture(self.stream))
            raise
        return self._device.end_capture(self.stream)
