"""The state machine of a GPU backend on a fake device: slots, graphs, tickets, and every way to fail."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable

import numpy as np
import pytest
from fake_cuda import ColorEngine, FakeDevice
from numpy.typing import NDArray

from spacecompile.errors import DeviceError, DeviceLostError, DeviceMemoryError, FrameError, UsageError
from spacecompile.runtime.backend import DeviceRawAnswer, RawAnswer
from spacecompile.runtime.cuda.backend import IN_FLIGHT_MAX, CudaBackend, CudaTicket
from spacecompile.runtime.cuda.slot import GRAPHS_MAX, WASTED_MAX
from spacecompile.runtime.cuda.source import DeviceFrame

SIZE_PX = (96, 128)
Frame = NDArray[np.uint8]


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def backend(device: FakeDevice) -> CudaBackend:
    return CudaBackend(ColorEngine(device), device)


def craft(left_px: int) -> Frame:
    """A red craft of 10 by 20 pixels."""
    frame_HWC = np.zeros((*SIZE_PX, 3), np.uint8)
    frame_HWC[20:30, left_px : left_px + 20, 0] = 255
    return frame_HWC


def box_of(ticket: CudaTicket) -> list[float]:
    return list(ticket.result().box_xyxy.tolist())


def parts_of(ticket: CudaTicket) -> NDArray[np.uint8]:
    raw = ticket.result()
    assert isinstance(raw, RawAnswer)
    return raw.parts_HW


def box(left_px: int) -> list[float]:
    return [left_px, 20, left_px + 20, 30]


def frame_on(device: FakeDevice, frame_HWC: Frame) -> DeviceFrame:
    return DeviceFrame(pointer=device.put(frame_HWC), shape=frame_HWC.shape)


def test_everything_is_allocated_once_and_nothing_after(backend: CudaBackend, device: FakeDevice) -> None:
    height_px, width_px = SIZE_PX
    # Frame, mask, and 3 probabilities, 4 edges and 6 signals of 4 bytes.
    assert device.live_bytes == height_px * width_px * 4 + 4 * (3 + 4 + 6)
    made = {name: count for name, count in device.calls.items() if "allocate" in name or "create" in name}
    for left_px in range(10):
        backend.run(craft(left_px))
    assert {name: device.calls[name] for name in made} == made
    assert device.calls["begin_capture"] == 1


def test_a_run_is_replayed_as_one_graph_once_it_was_captured(backend: CudaBackend, device: FakeDevice) -> None:
    assert [backend.run(craft(left_px)).box_xyxy.tolist() for left_px in (1, 2, 3)] == [box(1), box(2), box(3)]
    assert device.calls["launch"] == 2
    assert device.calls["copy_in"] == 2, "once for the first run, once noted down"
    assert backend.graphs == "1 captured"


@pytest.mark.parametrize("call", ["begin_capture", "end_capture"])
def test_a_capture_that_fails_is_declared_and_answers_go_on(
    backend: CudaBackend, device: FakeDevice, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    device.fail(call, "cudaErrorStreamCaptureUnsupported")
    assert [backend.run(craft(left_px)).box_xyxy.tolist() for left_px in (1, 2, 3)] == [box(1), box(2), box(3)]
    assert device.calls["launch"] == 0
    assert backend.graphs.startswith("none: GPU 0 reports cudaErrorStreamCaptureUnsupported")
    assert sum("no CUDA graph" in message for message in caplog.messages) == 1


def test_an_enqueue_that_fails_while_it_is_noted_down_leaves_the_stream_usable(device: FakeDevice) -> None:
    backend = CudaBackend(ColorEngine(device, enqueue_fails_at=2), device)
    assert [backend.run(craft(left_px)).box_xyxy.tolist() for left_px in (1, 2)] == [box(1), box(2)]
    assert not device.recordings
    assert not device.graphs


def test_an_enqueue_that_fails_is_an_error_and_the_next_frame_is_right(device: FakeDevice) -> None:
    backend = CudaBackend(ColorEngine(device, enqueue_fails_at=1), device)
    with pytest.raises(DeviceError, match="did not queue"):
        backend.run(craft(1))
    assert backend.run(craft(2)).box_xyxy.tolist() == box(2)


def test_an_enqueue_that_failed_because_the_gpu_is_lost_says_that(device: FakeDevice) -> None:
    # An engine only says that it did not queue; what is behind it shows when what is queued is waited for.
    backend = CudaBackend(ColorEngine(device, enqueue_fails_at=1), device)
    device.fail("synchronize", "cudaErrorIllegalAddress")
    with pytest.raises(DeviceLostError, match="cudaErrorIllegalAddress") as caught:
        backend.run(craft(1))
    assert "did not queue" in str(caught.value.__cause__)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_as_many_frames_are_in_flight_as_there_are_slots_and_no_more(device: FakeDevice, slots: int) -> None:
    backend = CudaBackend(ColorEngine(device), device, in_flight=slots)
    assert device.calls["create_stream"] == slots
    for _ in range(3):
        tickets = [backend.submit(craft(left_px)) for left_px in range(slots)]
        with pytest.raises(UsageError, match=f"{slots} frames are in flight"):
            backend.submit(craft(50))
        assert not tickets[-1].is_done()
        for left_px in reversed(range(slots)):
            assert box_of(tickets[left_px]) == box(left_px)
            assert tickets[left_px].is_done()


@pytest.mark.parametrize("slots", [0, -1, IN_FLIGHT_MAX + 1])
def test_a_number_in_flight_out_of_range_is_refused(device: FakeDevice, slots: int) -> None:
    engine = ColorEngine(device)
    with pytest.raises(UsageError, match="frames in flight"):
        CudaBackend(engine, device, in_flight=slots)
    assert engine.is_closed
    assert not device.memory


def test_a_host_frame_may_be_overwritten_at_once(backend: CudaBackend) -> None:
    frame_HWC = craft(7)
    ticket = backend.submit(frame_HWC)
    frame_HWC[:] = 255
    assert box_of(ticket) == box(7)


def test_a_result_is_the_callers_own_and_asking_again_gives_the_same(backend: CudaBackend) -> None:
    ticket = backend.submit(craft(1))
    first = parts_of(ticket)
    kept = first.copy()
    backend.run(craft(60))
    assert parts_of(ticket) is first
    np.testing.assert_array_equal(first, kept)


def test_a_dropped_ticket_gives_its_slot_back_after_its_frame_has_ended(
    backend: CudaBackend, device: FakeDevice
) -> None:
    backend.submit(craft(1))
    gc.collect()
    assert box_of(backend.submit(craft(2))) == box(2)
    assert device.calls["synchronize"] >= 2


def test_a_dropped_ticket_s_failure_is_not_the_next_frame_s(
    backend: CudaBackend, device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    backend.submit(craft(1))
    gc.collect()
    device.fail("synchronize", "cudaErrorUnknown")
    assert box_of(backend.submit(craft(2))) == box(2)
    assert sum("that was given up failed" in message for message in caplog.messages) == 1


def test_a_dropped_ticket_s_failure_that_sticks_is_everybody_s(backend: CudaBackend, device: FakeDevice) -> None:
    backend.submit(craft(1))
    gc.collect()
    device.fail("synchronize", "cudaErrorIllegalAddress")
    for _ in range(2):
        with pytest.raises(DeviceLostError, match="cudaErrorIllegalAddress"):
            backend.submit(craft(2))


@pytest.mark.parametrize("name", ["cudaErrorUnknown", "cudaErrorLaunchFailure"])
def test_whoever_polls_a_frame_that_fails_gets_the_error_from_its_result(
    backend: CudaBackend, device: FakeDevice, name: str
) -> None:
    ticket = backend.submit(craft(1))
    device.fail("is_reached", name)
    assert ticket.is_done()
    if name == "cudaErrorUnknown":
        assert box_of(ticket) == box(1), "that question failed, not the frame"
        return
    for _ in range(2):
        with pytest.raises(DeviceLostError, match=name):
            ticket.result()


def test_a_frame_on_the_device_is_read_where_it_lies(device: FakeDevice) -> None:
    backend = CudaBackend(ColorEngine(device), device)
    frame = frame_on(device, craft(5))
    for _ in range(4):
        assert box_of(backend.submit(frame)) == box(5)
    assert device.calls["copy_rows"] == device.calls["copy_in"] == 0
    assert device.calls["launch"] == 2, "captured when the address came back"
    device.bytes_at(frame.pointer, craft(9).nbytes)[:] = craft(9).reshape(-1)
    assert box_of(backend.submit(frame)) == box(9)


def test_another_address_is_captured_anew(backend: CudaBackend, device: FakeDevice) -> None:
    frames = [frame_on(device, craft(left_px)) for left_px in range(3)]
    for _ in range(3):
        for left_px, frame in enumerate(frames):
            assert box_of(backend.submit(frame)) == box(left_px)
    assert device.calls["begin_capture"] == 3
    assert device.calls["launch"] == 3


def test_graphs_do_not_pile_up(backend: CudaBackend, device: FakeDevice) -> None:
    for left_px in range(GRAPHS_MAX + 4):
        frame = frame_on(device, craft(left_px))
        assert [box_of(backend.submit(frame)) for _ in range(3)] == [box(left_px)] * 3
    assert len(device.graphs) == GRAPHS_MAX


@pytest.mark.parametrize(
    ("pitch_bytes", "shift_bytes", "takes_any_address"),
    [
        pytest.param(3 * SIZE_PX[1] + 64, 0, True, id="rows with gaps"),
        pytest.param(3 * SIZE_PX[1], 3, True, id="an address that is not aligned"),
        pytest.param(3 * SIZE_PX[1], 0, False, id="an engine with fixed addresses"),
    ],
)
def test_a_frame_that_can_not_be_read_in_place_is_copied_on_the_device(
    device: FakeDevice, pitch_bytes: int, shift_bytes: int, takes_any_address: bool
) -> None:
    backend = CudaBackend(ColorEngine(device, takes_any_address=takes_any_address), device)
    rows = np.zeros((SIZE_PX[0], pitch_bytes), np.uint8)
    rows[:, : 3 * SIZE_PX[1]] = craft(11).reshape(SIZE_PX[0], -1)
    pointer = device.put(np.concatenate([np.zeros(shift_bytes, np.uint8), rows.reshape(-1)])) + shift_bytes
    frame = DeviceFrame(pointer=pointer, shape=(*SIZE_PX, 3), strides_bytes=(pitch_bytes, 3, 1))
    for _ in range(3):
        assert box_of(backend.submit(frame)) == box(11)
    assert device.calls["copy_rows"] == 3
    assert device.calls["launch"] == 2


def test_work_that_fills_a_frame_is_waited_for_on_the_device(backend: CudaBackend, device: FakeDevice) -> None:
    pointer = device.put(np.zeros((*SIZE_PX, 3), np.uint8))
    camera = device.create_stream()
    device.queue(camera, lambda: np.copyto(device.bytes_at(pointer, craft(3).nbytes), craft(3).reshape(-1)))
    ticket = backend.submit(DeviceFrame(pointer=pointer, shape=(*SIZE_PX, 3), stream=camera))
    assert device.queues[camera], "nothing was waited for on the host"
    assert box_of(ticket) == box(3)


def test_a_frame_is_kept_alive_until_its_result_is_taken(backend: CudaBackend, device: FakeDevice) -> None:
    class Owner:
        pass

    owner = Owner()
    ticket = backend.submit(DeviceFrame(pointer=device.put(craft(1)), shape=(*SIZE_PX, 3), owner=owner))
    assert any("DeviceFrame" in type(held).__name__ for held in gc.get_referrers(owner))
    ticket.result()
    assert not any("DeviceFrame" in type(held).__name__ for held in gc.get_referrers(owner))


def on_device(ticket: CudaTicket) -> DeviceRawAnswer:
    raw = ticket.result()
    assert isinstance(raw, DeviceRawAnswer)
    return raw


def test_parts_stay_on_the_device_until_they_are_released(backend: CudaBackend, device: FakeDevice) -> None:
    raw = on_device(backend.submit(craft(4), parts_on_device=True))
    gc.collect()
    interface = raw.parts.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["version"]) == (SIZE_PX, "|u1", 3)
    pointer, is_read_only = interface["data"]
    assert is_read_only is False, "torch refuses what claims to be"
    seen_HW = device.bytes_at(pointer, SIZE_PX[0] * SIZE_PX[1]).reshape(SIZE_PX)
    np.testing.assert_array_equal(seen_HW, craft(4)[..., 0] // 255)
    np.testing.assert_array_equal(raw.parts.to_host(), seen_HW)
    assert raw.box_xyxy.tolist() == box(4)
    with pytest.raises(UsageError, match="held on the GPU"):
        backend.submit(craft(5))
    raw.parts.release()
    raw.parts.release()
    assert backend.run(craft(5)).box_xyxy.tolist() == box(5)
    for use in (lambda: raw.parts.__cuda_array_interface__, raw.parts.to_host):
        with pytest.raises(UsageError, match="released"):
            use()


def test_parts_that_nobody_holds_give_their_slot_back(backend: CudaBackend) -> None:
    on_device(backend.submit(craft(4), parts_on_device=True))
    gc.collect()
    assert backend.free_count == 1


def test_parts_on_the_device_are_not_copied_down(backend: CudaBackend, device: FakeDevice) -> None:
    on_device(backend.submit(craft(4), parts_on_device=True)).parts.release()
    assert device.calls["copy_out"] == 6, "three small outputs, queued and noted down"


@pytest.mark.parametrize("room_slots", [0, 1, 2])
def test_a_device_without_room_is_an_error_that_leaves_nothing_behind(room_slots: int) -> None:
    slot_bytes = SIZE_PX[0] * SIZE_PX[1] * 4 + 4 * 13
    device = FakeDevice(room_bytes=slot_bytes * room_slots + slot_bytes // 2)
    engine = ColorEngine(device)
    with pytest.raises(DeviceMemoryError, match="fewer frames in flight"):
        CudaBackend(engine, device, in_flight=3)
    assert engine.is_closed
    assert not device.memory
    assert not device.pinned
    assert not device.events
    assert list(device.queues) == [1]


@pytest.mark.parametrize("call", ["create_stream", "create_event", "allocate", "allocate_pinned"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_whatever_fails_while_slots_are_made_everything_made_before_is_freed(call: str, after: int) -> None:
    device = FakeDevice()
    device.fail(call, "cudaErrorMemoryAllocation", after=after)
    engine = ColorEngine(device)
    with pytest.raises(DeviceMemoryError):
        CudaBackend(engine, device, in_flight=4)
    assert engine.is_closed
    assert (device.memory, device.pinned, device.events, list(device.queues)) == ({}, {}, {}, [1])


@pytest.mark.parametrize("call", ["copy_in", "copy_out", "record", "synchronize", "launch"])
def test_an_error_that_passes_costs_one_frame(backend: CudaBackend, device: FakeDevice, call: str) -> None:
    backend.run(craft(1))
    if call in ("copy_in", "copy_out"):
        backend = CudaBackend(ColorEngine(device), device)
    device.fail(call, "cudaErrorUnknown")
    with pytest.raises(DeviceError, match="cudaErrorUnknown"):
        backend.run(craft(2))
    assert [backend.run(craft(left_px)).box_xyxy.tolist() for left_px in (3, 4)] == [box(3), box(4)]


@pytest.mark.parametrize("call", ["copy_in", "synchronize", "begin_capture", "record", "activate"])
def test_an_error_that_sticks_closes_the_door_and_says_so(device: FakeDevice, call: str) -> None:
    backend = CudaBackend(ColorEngine(device), device)
    device.fail(call, "cudaErrorIllegalAddress")
    with pytest.raises(DeviceLostError, match="load the bundle in a new one"):
        backend.run(craft(1))
    calls = device.calls.total()
    with pytest.raises(DeviceLostError, match="cudaErrorIllegalAddress"):
        backend.run(craft(2))
    assert device.calls.total() == calls, "a lost device is not asked again"
    backend.close()
    backend.close()


def test_an_error_that_sticks_reaches_every_frame_in_flight(device: FakeDevice) -> None:
    backend = CudaBackend(ColorEngine(device), device, in_flight=3)
    tickets = [backend.submit(craft(left_px)) for left_px in range(3)]
    device.fail("synchronize", "cudaErrorLaunchFailure")
    for left_px, ticket in enumerate(tickets):
        for _ in range(2):
            with pytest.raises(DeviceLostError, match="cudaErrorLaunchFailure"):
                ticket.result()
        np.testing.assert_array_equal(ticket.failed_frame_HWC, craft(left_px))


def test_closing_frees_everything_while_a_frame_is_in_flight(device: FakeDevice) -> None:
    engine = ColorEngine(device)
    backend = CudaBackend(engine, device, in_flight=2)
    backend.run(craft(0))
    ticket = backend.submit(craft(1))
    raw = on_device(backend.submit(craft(2), parts_on_device=True))
    backend.close()
    assert engine.is_closed
    assert (device.memory, device.pinned, device.events, device.graphs) == ({}, {}, {}, {})
    for use in (ticket.result, raw.parts.to_host, lambda: backend.submit(craft(1))):
        with pytest.raises(UsageError, match="closed"):
            use()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"dtype": "float32"}, "dtype float32", id="dtype"),
        pytest.param({"shape": (3, *SIZE_PX)}, r"shape \(3, 96, 128\)", id="channels first"),
        pytest.param({"strides_bytes": (384, 4, 1)}, "next to each other", id="padded pixels"),
        pytest.param({"strides_bytes": (383, 3, 1)}, "next to each other", id="rows that overlap"),
        pytest.param({"strides_bytes": (-384, 3, 1)}, "next to each other", id="upside down"),
        pytest.param({"pointer": 0}, "no address", id="null"),
        pytest.param({"pointer": 4096}, "in no GPU's memory", id="an address of the host"),
    ],
)
def test_a_frame_that_would_end_the_process_is_refused(
    backend: CudaBackend, device: FakeDevice, change: dict[str, object], message: str
) -> None:
    facts: dict[str, object] = {"pointer": device.put(craft(1)), "shape": (*SIZE_PX, 3)} | change
    make: Callable[..., DeviceFrame] = DeviceFrame
    with pytest.raises(FrameError, match=message):
        backend.submit(make(**facts))
    assert backend.run(craft(2)).box_xyxy.tolist() == box(2)


def test_a_frame_of_another_gpu_is_refused(backend: CudaBackend, device: FakeDevice) -> None:
    frame = frame_on(device, craft(1))
    device.device_of = lambda _: 1  # type: ignore[method-assign]
    with pytest.raises(FrameError, match="on GPU 1; the session runs on GPU 0"):
        backend.submit(frame)


def test_frames_from_too_many_addresses_are_not_captured_for_ever(
    backend: CudaBackend, device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [frame_on(device, craft(left_px)) for left_px in range(GRAPHS_MAX + 4)]
    for _ in range(6):
        for left_px, frame in enumerate(frames):
            # Twice each: the second time is what makes an address look as if it came back.
            assert [box_of(backend.submit(frame)) for _ in range(2)] == [box(left_px)] * 2
    assert device.calls["begin_capture"] == GRAPHS_MAX + WASTED_MAX
    assert len(device.graphs) == GRAPHS_MAX
    assert sum("more than 8 addresses" in message for message in caplog.messages) == 1
    backend.run(craft(1))
    backend.run(craft(2))
    assert device.calls["begin_capture"] == GRAPHS_MAX + WASTED_MAX + 1, "our own buffer still is"


def test_addresses_that_change_after_long_use_are_captured_again(backend: CudaBackend, device: FakeDevice) -> None:
    for left_px in range(3 * GRAPHS_MAX):
        frame = frame_on(device, craft(left_px))
        assert [box_of(backend.submit(frame)) for _ in range(12)] == [box(left_px)] * 12
    assert device.calls["begin_capture"] == 3 * GRAPHS_MAX


def test_the_callers_own_gpu_is_current_again_after_every_call(device: FakeDevice) -> None:
    frame = frame_on(device, craft(3))
    device.current = 5
    backend = CudaBackend(ColorEngine(device), device, in_flight=2)
    backend.run(craft(1))
    raw = on_device(backend.submit(frame, parts_on_device=True))
    raw.parts.to_host()
    ticket = backend.submit(craft(2))
    assert device.current == 5
    ticket.is_done()
    ticket.result()
    assert device.current == 5
    device.fail("synchronize")
    with pytest.raises(DeviceError):
        backend.run(craft(4))
    assert device.current == 5
    backend.close()
    assert device.current == 5


@pytest.mark.parametrize("ask", ["result", "submit"])
def test_an_error_that_is_raised_again_and_again_does_not_grow(device: FakeDevice, ask: str) -> None:
    backend = CudaBackend(ColorEngine(device), device)
    ticket = backend.submit(craft(1))
    device.fail("synchronize", "cudaErrorIllegalAddress")
    lengths, texts = [], set()
    for _ in range(5):
        with pytest.raises(DeviceLostError) as caught:
            ticket.result() if ask == "result" else (lengths and backend.submit(craft(2))) or ticket.result()
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
        texts.add(str(caught.value))
    assert len(set(lengths[1:])) == 1
    assert len(texts) == 1


def test_a_backend_that_is_dropped_gives_its_memory_back(device: FakeDevice) -> None:
    engine = ColorEngine(device)
    backend = CudaBackend(engine, device, in_flight=2)
    backend.run(craft(1))
    ticket = backend.submit(craft(2))
    del backend
    assert box_of(ticket) == box(2), "a ticket keeps it"
    del ticket
    gc.collect()
    assert engine.is_closed
    assert (device.memory, device.pinned, device.events, device.graphs) == ({}, {}, {}, {})


def test_torch_takes_parts_that_stayed_on_the_device(backend: CudaBackend) -> None:
    torch = pytest.importorskip("torch")
    parts = on_device(backend.submit(craft(4), parts_on_device=True)).parts
    if torch.cuda.is_available():
        pytest.skip("the address is the fake's, which a real GPU would read")

    class ReadOnly:
        def __init__(self) -> None:
            interface = parts.__cuda_array_interface__
            self.__cuda_array_interface__ = interface | {"data": (interface["data"][0], True)}

    with pytest.raises(TypeError, match="read only"):
        torch.as_tensor(ReadOnly())
    # Without a driver it gets as far as looking for one.
    with pytest.raises((RuntimeError, AssertionError), match=r"NVIDIA driver|CUDA"):
        torch.as_tensor(parts)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_timed_run_tells_graph_and_copies_apart_by_the_gpus_clock(device: FakeDevice, frames: int) -> None:
    # The first frame is queued call by call, the later ones are replays of its graph.
    device.work_ms = {"copy_in": 0.5, "engine": 3.0, "copy_out": 0.125}
    backend = CudaBackend(ColorEngine(device), device, timed=True)
    assert backend.last_times is None
    for left_px in range(frames):
        device.work_ms["engine"] = 3.0 + left_px
        backend.run(craft(left_px))
        device.clock_ms += 100.0  # what the host does in between is no part of it
        assert backend.last_times is not None
        assert backend.last_times.engine_ms == 3.0 + left_px
        assert backend.last_times.device_ms == 3.0 + left_px + 0.5 + 4 * 0.125
    assert device.calls["launch"] == frames - 1
    backend.close()
    assert not device.timed, "the events are destroyed"


def test_frames_in_flight_have_times_of_their_own(device: FakeDevice) -> None:
    device.work_ms = {"engine": 1.0}
    backend = CudaBackend(ColorEngine(device), device, in_flight=2, timed=True)
    first, second = backend.submit(craft(1)), backend.submit(craft(2))
    first.result()
    device.work_ms = {"engine": 7.0}
    second.result()
    assert backend.last_times is not None
    assert backend.last_times.engine_ms == 7.0


def test_a_backend_that_is_not_timed_records_no_such_event(backend: CudaBackend, device: FakeDevice) -> None:
    backend.run(craft(1))
    assert backend.last_times is None
    assert not device.timed
    assert not device.calls["record_in_graph"]


def test_a_clock_that_fails_gives_the_slot_back(device: FakeDevice) -> None:
    backend = CudaBackend(ColorEngine(device), device, timed=True)
    device.fail("elapsed_ms", "cudaErrorInvalidResourceHandle")
    with pytest.raises(DeviceError, match="cudaErrorInvalidResourceHandle"):
        backend.run(craft(1))
    assert backend.run(craft(2)).box_xyxy.tolist() == box(2)
