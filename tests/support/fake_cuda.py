"""A GPU without a GPU: `CudaDevice` on host memory, with failures to order, and engines that run on it.

Queued work is done late, when somebody waits for it, so that a missing wait shows as a wrong answer. Freed memory is
overwritten. Every allocation is counted.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import INPUT_NAME
from spacecompile.errors import DeviceError
from spacecompile.runtime.backend import GraphSignature, sealed_tensors
from spacecompile.runtime.cuda.bindings import error_of

Work = Callable[[], None]
ALIGNMENT_BYTES = 256


class FakeDevice:
    """See `CudaDevice`. `fail(call, name, after)` makes a call fail with a CUDA error."""

    def __init__(self, *, index: int = 0, is_late: bool = True, room_bytes: int = 1 << 30) -> None:
        self.index = index
        self.is_late = is_late
        self.room_bytes = room_bytes
        self.calls: Counter[str] = Counter()
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.queues: dict[int, list[Work]] = {1: []}
        self.events: dict[int, tuple[int, int]] = {}
        self.marks: Counter[int] = Counter()
        self.done: Counter[int] = Counter()
        self.graphs: dict[int, list[Work]] = {}
        self.recordings: dict[int, list[Work]] = {}
        self.clock_ms = 0.0
        self.work_ms: dict[str, float] = {}
        self.timed: dict[int, float | None] = {}
        self.orders: dict[str, list[Any]] = {}
        self.sticky = ""
        self.current = index
        self._next_handle = 16

    def fail(self, call: str, name: str = "cudaErrorUnknown", *, after: int = 0) -> None:
        self.orders[call] = [after, name]

    def _enter(self, call: str) -> None:
        assert self.current == self.index, "the calling thread's GPU is another"
        self._fail_if_due(call)

    def _fail_if_due(self, call: str) -> None:
        self.calls[call] += 1
        order = self.orders.get(call)
        if order is not None:
            order[0] -= 1
            if order[0] < 0:
                del self.orders[call]
                error = error_of(order[1], "ordered", gpu=self.index)
                if "process" in str(error):
                    self.sticky = order[1]
                raise error
        if self.sticky:
            raise error_of(self.sticky, "still there", gpu=self.index)

    def _handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    @property
    def live_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.memory.values())

    def activate(self) -> int:
        self._fail_if_due("activate")
        before, self.current = self.current, self.index
        return before

    def restore(self, index: int) -> None:
        self.calls["restore"] += 1
        self.current = index

    def allocate(self, num_bytes: int) -> int:
        self._enter("allocate")
        if self.live_bytes + num_bytes > self.room_bytes:
            raise error_of("cudaErrorMemoryAllocation", "out of memory", gpu=self.index)
        block = np.full(num_bytes + ALIGNMENT_BYTES, 0xAA, np.uint8)
        start = -block.ctypes.data % ALIGNMENT_BYTES
        buffer = block[start : start + num_bytes]
        self.memory[buffer.ctypes.data] = buffer
        return int(buffer.ctypes.data)

    def free(self, pointer: int) -> None:
        self._enter("free")
        self.memory.pop(pointer)[:] = 0xDD

    def allocate_pinned(self, num_bytes: int) -> NDArray[Any]:
        self._enter("allocate_pinned")
        buffer = np.full(num_bytes, 0xBB, np.uint8)
        self.pinned[buffer.ctypes.data] = buffer
        return buffer

    def free_pinned(self, buffer: NDArray[Any]) -> None:
        self._enter("free_pinned")
        del self.pinned[buffer.ctypes.data]

    def create_stream(self) -> int:
        self._enter("create_stream")
        stream = self._handle()
        self.queues[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        self._enter("destroy_stream")
        assert not self.queues.pop(stream), "work is left"

    def create_event(self, *, timed: bool = False) -> int:
        self._enter("create_event")
        event = self._handle()
        self.events[event] = (0, 0)
        if timed:
            self.timed[event] = None
        return event

    def destroy_event(self, event: int) -> None:
        self._enter("destroy_event")
        del self.events[event]
        self.timed.pop(event, None)

    def record(self, event: int, stream: int) -> None:
        self._enter("record")
        assert stream not in self.recordings, "our events are no part of a graph"
        self.marks[event] += 1
        mark = self.marks[event]
        self.events[event] = (stream, mark)

        def reach() -> None:
            self.done[event] = mark
            self._stamp(event)

        self.queue(stream, reach)

    def record_in_graph(self, event: int, stream: int) -> None:
        self._enter("record_in_graph")
        assert stream in self.recordings, "CUDA refuses the flag outside of a capture"
        assert event in self.timed
        self.queue(stream, lambda: self._stamp(event))

    def _stamp(self, event: int) -> None:
        if event in self.timed:
            self.timed[event] = self.clock_ms

    def elapsed_ms(self, start: int, end: int) -> float:
        self._enter("elapsed_ms")
        start_ms, end_ms = self.timed[start], self.timed[end]
        assert start_ms is not None, "the event was never recorded"
        assert end_ms is not None, "the event was never recorded"
        return end_ms - start_ms

    def spend(self, kind: str, work: Work) -> Work:
        """The same work, which takes its time of the clock: `work_ms` by the kind of it."""

        def timed_work() -> None:
            work()
            self.clock_ms += self.work_ms.get(kind, 0.0)

        return timed_work

    def wait(self, stream: int, event: int) -> None:
        self._enter("wait")
        awaited = self.events[event]
        self.queue(stream, lambda: self._drain_until(event, awaited))

    def is_reached(self, event: int) -> bool:
        self._enter("is_reached")
        return self.done[event] >= self.events[event][1]

    def synchronize(self, event: int) -> None:
        self._enter("synchronize")
        self._drain_until(event, self.events[event])

    def _drain_until(self, event: int, awaited: tuple[int, int]) -> None:
        stream, mark = awaited
        while self.done[event] < mark:
            self.queues[stream].pop(0)()

    def queue(self, stream: int, work: Work) -> None:
        """What an engine's kernels go through as well."""
        if stream in self.recordings:
            self.recordings[stream].append(work)
        elif self.is_late:
            self.queues[stream].append(work)
        else:
            work()

    def bytes_at(self, pointer: int, num_bytes: int) -> NDArray[np.uint8]:
        """Device memory; an address outside any allocation is what ends a real process."""
        for start, buffer in self.memory.items():
            if start <= pointer and pointer + num_bytes <= start + buffer.nbytes:
                return buffer[pointer - start : pointer - start + num_bytes]
        raise error_of("cudaErrorIllegalAddress", "an illegal memory access was encountered", gpu=self.index)

    def copy_in(self, pointer: int, host: NDArray[Any], stream: int) -> None:
        self._enter("copy_in")
        assert self._is_pinned(host), "pageable memory is not copied asynchronously"
        source = host.reshape(-1).view(np.uint8)
        self.queue(stream, self.spend("copy_in", lambda: np.copyto(self.bytes_at(pointer, host.nbytes), source)))

    def copy_out(self, host: NDArray[Any], pointer: int, stream: int) -> None:
        self._enter("copy_out")
        assert self._is_pinned(host), "pageable memory is not copied asynchronously"
        target = host.reshape(-1).view(np.uint8)
        self.queue(stream, self.spend("copy_out", lambda: np.copyto(target, self.bytes_at(pointer, host.nbytes))))

    def _is_pinned(self, host: NDArray[Any]) -> bool:
        return host.ctypes.data in self.pinned and host.nbytes == self.pinned[host.ctypes.data].nbytes

    def copy_rows(self, target: int, source: int, *, row_bytes: int, pitch_bytes: int, rows: int, stream: int) -> None:
        self._enter("copy_rows")

        def copy() -> None:
            for row in range(rows):
                to = self.bytes_at(target + row * row_bytes, row_bytes)
                to[:] = self.bytes_at(source + row * pitch_bytes, row_bytes)

        self.queue(stream, copy)

    def begin_capture(self, stream: int) -> None:
        self._enter("begin_capture")
        assert not self.recordings, "one capture at a time"
        self.recordings[stream] = []

    def end_capture(self, stream: int) -> int:
        recording = self.recordings.pop(stream)
        self._enter("end_capture")
        graph = self._handle()
        self.graphs[graph] = recording
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._enter("launch")
        for work in self.graphs[graph]:
            self.queue(stream, work)

    def destroy_graph(self, graph: int) -> None:
        self._enter("destroy_graph")
        del self.graphs[graph]

    def device_of(self, pointer: int) -> int | None:
        self._enter("device_of")
        inside = any(start <= pointer < start + buffer.nbytes for start, buffer in self.memory.items())
        return self.index if inside else None

    def free_bytes(self) -> int:
        return self.room_bytes - self.live_bytes

    def put(self, array: NDArray[Any]) -> int:
        """An array of the test's own in device memory."""
        pointer = self.allocate(array.nbytes)
        self.bytes_at(pointer, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return pointer


class ColorEngine:
    """See `CudaEngine`: answers by colour as the graph of `tests/runtime/conftest.py`, queued as kernels are."""

    name = "color"
    version = "1.0"
    captures_itself = False
    graph_problem = ""

    def __init__(
        self,
        device: FakeDevice,
        *,
        frame_size_px: tuple[int, int] = (96, 128),
        takes_any_address: bool = True,
        enqueue_fails_at: int | None = None,
    ) -> None:
        self.device = device
        self.takes_any_address = takes_any_address
        self.signature = GraphSignature(frame_size_px=frame_size_px, num_classes=3)
        self.enqueue_fails_at = enqueue_fails_at
        self.enqueued = 0
        self.open_contexts = 0
        self.is_closed = False

    def context(self, stream: int, addresses: Mapping[str, int]) -> ColorContext:
        self.open_contexts += 1
        return ColorContext(self, stream, dict(addresses))

    def close(self) -> None:
        assert self.open_contexts == 0, "contexts are closed before their engine"
        self.is_closed = True


class ColorContext:
    def __init__(self, engine: ColorEngine, stream: int, addresses: dict[str, int]) -> None:
        self.engine, self.stream, self.addresses = engine, stream, addresses

    def bind_input(self, pointer: int) -> None:
        self.addresses[INPUT_NAME] = pointer

    def enqueue(self) -> None:
        engine = self.engine
        engine.enqueued += 1
        if engine.enqueued == engine.enqueue_fails_at:
            raise DeviceError("the engine did not queue the run.")
        addresses = dict(self.addresses)
        device = engine.device
        answer = partial(answer_by_color, device, engine.signature, addresses)
        device.queue(self.stream, device.spend("engine", answer))

    def close(self) -> None:
        self.engine.open_contexts -= 1


def answer_by_color(device: FakeDevice, signature: GraphSignature, addresses: Mapping[str, int]) -> None:
    """The kernel of `ColorEngine`."""
    height_px, width_px = signature.frame_size_px
    frame_HWC = device.bytes_at(addresses[INPUT_NAME], height_px * width_px * 3).reshape(height_px, width_px, 3)
    body_HW, panel_HW = frame_HWC[..., 0] > 127, frame_HWC[..., 2] > 127
    logits = frame_HWC.mean(axis=(0, 1)) * 0.1
    any_HW = body_HW | panel_HW
    columns, rows = np.flatnonzero(any_HW.any(axis=0)), np.flatnonzero(any_HW.any(axis=1))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(columns) else (0, 0, 0, 0)
    health = (frame_HWC.mean(), frame_HWC.max(), body_HW.sum(), panel_HW.sum(), 1, 0)
    values: dict[str, Any] = {
        "class_probs": np.exp(logits) / np.exp(logits).sum(),
        "parts": body_HW * np.uint8(1) + panel_HW * np.uint8(2),
        "box_xyxy": box,
        "health": health,
    }
    for layout in sealed_tensors(signature)[1:]:
        content = np.asarray(values[layout.name], layout.dtype)
        device.bytes_at(addresses[layout.name], layout.num_bytes)[:] = content.reshape(-1).view(np.uint8)


class DlpackOnGpu:
    """An array that says through DLPack that it is on a GPU, as torch and cupy do; `asked` is the stream given.

    `type_code`, `bits` and `lanes` are those of dlpack.h; 1 is kDLUInt.
    """

    def __init__(
        self,
        pointer: int,
        shape: tuple[int, ...],
        *,
        type_code: int = 1,
        bits: int = 8,
        lanes: int = 1,
        device_index: int = 0,
    ) -> None:
        self.pointer, self.shape, self.device_index = pointer, shape, device_index
        self.dtype = _DataType(type_code, bits, lanes)
        self.asked: Any = None
        self._keep: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.device_index)

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        self.asked = stream
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        tensor = _ManagedTensor(
            _Tensor(self.pointer, _Device(2, self.device_index), len(self.shape), self.dtype, shape),
            None,
            None,
        )
        self._keep += [shape, tensor]
        make = ctypes.pythonapi.PyCapsule_New
        make.restype = ctypes.py_object
        make.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return make(ctypes.addressof(tensor), b"dltensor", None)


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("index", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _ManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))
