"""Sessions on a GPU: frames in flight, frames and answers that stay there, and what happens when the GPU fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import DlpackOnGpu, FakeDevice
from fake_tensorrt import fake_api, install, sidecar_of
from numpy.typing import NDArray

from spacecompile.errors import (
    AnswerError,
    DeviceError,
    DeviceLostError,
    DeviceMemoryError,
    FrameError,
    MissingPartError,
    UsageError,
)
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.backend import GpuOptions
from spacecompile.runtime.backends import tensorrt_
from spacecompile.runtime.backends.registry import entry_named
from spacecompile.runtime.cuda.answer import DeviceAnswer
from spacecompile.runtime.cuda.source import DeviceFrame
from spacecompile.runtime.session import Session, load

BOX = [30, 20, 90, 40]
GPU_BACKEND = "onnxruntime-cuda"
without_gpu_package = pytest.mark.skipif(
    entry_named(GPU_BACKEND).missing() is None, reason="ONNX Runtime for GPUs is installed"
)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeDevice:
    device = FakeDevice(is_late=False)
    install(monkeypatch, tmp_path / "package", device)
    return device


@pytest.fixture
def make_session(device: FakeDevice, color_bundle: Path) -> Iterator[Callable[..., Session]]:
    sessions: list[Session] = []

    def make(**arguments: Any) -> Session:
        sessions.append(load(color_bundle, **{"backend": GPU_BACKEND, "threads": 1} | arguments))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()
    assert not device.memory, "a session that is closed leaves nothing on the GPU"


def test_a_session_answers_as_on_the_cpu_and_says_where(
    make_session: Callable[..., Session], color_bundle: Path, craft_frame: NDArray[np.uint8]
) -> None:
    on_gpu, on_cpu = make_session(in_flight=2), load(color_bundle, backend="onnxruntime", threads=1)
    assert (on_gpu.choice.backend, on_gpu.choice.in_flight, on_gpu.choice.fallback) == (GPU_BACKEND, 2, "")
    one, other = on_gpu(craft_frame), on_cpu(craft_frame)
    assert one.to_dict(masks=True) == other.to_dict(masks=True)


def test_frames_are_in_flight_side_by_side(
    make_session: Callable[..., Session], craft_frame: NDArray[np.uint8]
) -> None:
    session = make_session(in_flight=3)
    tickets = [session.submit(np.roll(craft_frame, shift, axis=1)) for shift in range(3)]
    with pytest.raises(UsageError, match="3 frames are in flight"):
        session.submit(craft_frame)
    for shift, ticket in reversed(list(enumerate(tickets))):
        answer = ticket.result()
        assert answer.box_xyxy.tolist() == [30 + shift, 20, 90 + shift, 40]
        assert ticket.result() is answer
        assert ticket.is_done()


def test_a_frame_on_the_gpu_is_answered_without_a_visit_to_the_host(
    make_session: Callable[..., Session], device: FakeDevice, craft_frame: NDArray[np.uint8]
) -> None:
    session = make_session()
    pointer = device.put(craft_frame)
    for source in (DlpackOnGpu(pointer, craft_frame.shape), DeviceFrame(pointer=pointer, shape=craft_frame.shape)):
        assert session(source).box_xyxy.tolist() == BOX
    assert device.calls["copy_in"] == 0
    device.free(pointer)


def test_parts_can_stay_on_the_gpu(
    make_session: Callable[..., Session], device: FakeDevice, craft_frame: NDArray[np.uint8]
) -> None:
    session = make_session()
    plain = session(craft_frame)
    answer = session.submit(craft_frame, parts_on_device=True).result()
    assert isinstance(answer, DeviceAnswer)
    assert (answer.class_name, answer.flags, answer.health) == (plain.class_name, plain.flags, plain.health)
    np.testing.assert_array_equal(answer.parts.to_host(), plain.parts_HW)
    answer.parts.release()


def test_warming_up_touches_every_slot(make_session: Callable[..., Session], device: FakeDevice) -> None:
    session = make_session(in_flight=4)
    session.warm_up(runs=2)
    assert device.calls["copy_in"] == 8


def test_a_gpu_that_fails_while_warming_up_is_passed_over_too(
    make_session: Callable[..., Session], device: FakeDevice, craft_frame: NDArray[np.uint8]
) -> None:
    session = make_session(in_flight=2, on_device_error="cpu")
    device.fail("synchronize", "cudaErrorLaunchFailure")
    session.warm_up()
    assert "cudaErrorLaunchFailure" in session.choice.fallback
    assert session(craft_frame).box_xyxy.tolist() == BOX
    device.sticky = ""


def test_frames_of_another_order_are_not_taken_from_the_gpu(
    make_session: Callable[..., Session], craft_frame: NDArray[np.uint8]
) -> None:
    with pytest.raises(FrameError, match="loaded for bgr frames"):
        make_session(color="bgr").submit(DlpackOnGpu(4096, craft_frame.shape))


def test_a_second_thread_is_refused_while_a_result_is_waited_for(
    make_session: Callable[..., Session], device: FakeDevice, craft_frame: NDArray[np.uint8]
) -> None:
    session = make_session(in_flight=2)
    ticket = session.submit(craft_frame)
    waits, may_go_on = threading.Event(), threading.Event()
    synchronize = device.synchronize

    def slow(event: int) -> None:
        waits.set()
        assert may_go_on.wait(timeout=60)
        synchronize(event)

    device.synchronize = slow  # type: ignore[method-assign]
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(ticket.result()))
    thread.start()
    assert waits.wait(timeout=60)
    for use in (lambda: session(craft_frame), lambda: session.submit(craft_frame), ticket.result, session.close):
        with pytest.raises(UsageError, match="Load one session per thread"):
            use()
    may_go_on.set()
    thread.join()
    assert answers[0].box_xyxy.tolist() == BOX


def test_every_call_makes_the_gpu_the_callers_thread_s_own(
    make_session: Callable[..., Session], device: FakeDevice, craft_frame: NDArray[np.uint8]
) -> None:
    session = make_session()
    seen = [device.calls["activate"]]
    ticket = session.submit(craft_frame, parts_on_device=True)
    seen.append(device.calls["activate"])
    answer = ticket.result()
    seen.append(device.calls["activate"])
    answer.parts.to_host()
    seen.append(device.calls["activate"])
    assert seen == sorted(set(seen)), "submitting, taking the result and fetching the mask each do"


@pytest.mark.parametrize("call", ["copy_in", "synchronize"])
def test_a_gpu_that_is_lost_is_an_error_when_nothing_else_was_asked_for(
    make_session: Callable[..., Session], device: FakeDevice, craft_frame: NDArray[np.uint8], call: str
) -> None:
    session = make_session()
    device.fail(call, "cudaErrorIllegalAddress")
    for _ in range(2):
        with pytest.raises(DeviceLostError, match="cudaErrorIllegalAddress"):
            session(craft_frame)
    assert session.choice.backend == GPU_BACKEND
    device.sticky = ""


@pytest.mark.parametrize("call", ["record", "synchronize"])
def test_the_cpu_takes_over_when_that_was_asked_for_and_says_so(
    make_session: Callable[..., Session],
    device: FakeDevice,
    craft_frame: NDArray[np.uint8],
    call: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    session = make_session(on_device_error="cpu")
    assert session(craft_frame).box_xyxy.tolist() == BOX
    device.fail(call, "cudaErrorIllegalAddress")
    for _ in range(2):
        assert session(craft_frame).box_xyxy.tolist() == BOX
    assert session.choice.backend != GPU_BACKEND
    assert "cudaErrorIllegalAddress" in session.choice.fallback
    assert sum("the CPU takes over" in message for message in caplog.messages) == 1
    device.sticky = ""


def test_frames_in_flight_on_a_gpu_that_is_lost_are_answered_by_the_cpu(
    make_session: Callable[..., Session], device: FakeDevice, craft_frame: NDArray[np.uint8]
) -> None:
    session = make_session(on_device_error="cpu", in_flight=3)
    frame_HWC = craft_frame.copy()
    tickets = []
    for shift in range(3):
        np.copyto(frame_HWC, np.roll(craft_frame, shift, axis=1))
        tickets.append(session.submit(frame_HWC))
    device.fail("synchronize", "cudaErrorLaunchFailure")
    for shift, ticket in enumerate(tickets):
        assert ticket.result().box_xyxy.tolist() == [30 + shift, 20, 90 + shift, 40]
    assert isinstance(session.submit(craft_frame).result(), Answer)
    with pytest.raises(UsageError, match=r"runs on \w+ \(GPU 0 reports cudaErrorLaunchFailure"):
        session.submit(craft_frame, parts_on_device=True)
    device.sticky = ""


def test_a_loop_that_polls_goes_on_with_the_cpu_when_the_gpu_is_lost(
    make_session: Callable[..., Session], device: FakeDevice, craft_frame: NDArray[np.uint8]
) -> None:
    session = make_session(on_device_error="cpu")
    ticket = session.submit(craft_frame)
    device.fail("is_reached", "cudaErrorLaunchFailure")
    assert ticket.is_done()
    assert ticket.result().box_xyxy.tolist() == BOX
    assert "cudaErrorLaunchFailure" in session.choice.fallback
    device.sticky = ""


def test_an_answer_that_is_refused_does_not_keep_the_gpus_memory(
    device: FakeDevice,
    tmp_path: Path,
    make_bundle: Callable[..., Path],
    make_graph: Callable[..., bytes],
    craft_frame: NDArray[np.uint8],
) -> None:
    path = make_bundle(tmp_path / "nan.spacepkg", {("fp32", "none"): make_graph(offset=float("nan"))})
    with load(path, backend=GPU_BACKEND, threads=1) as session:
        tickets = []
        for _ in range(2):
            tickets.append(session.submit(craft_frame, parts_on_device=True))
            for _ in range(2):
                with pytest.raises(AnswerError, match="nan"):
                    tickets[-1].result()


def test_a_frame_that_was_on_the_lost_gpu_is_an_error_and_the_next_one_is_answered(
    make_session: Callable[..., Session], device: FakeDevice, craft_frame: NDArray[np.uint8]
) -> None:
    session = make_session(on_device_error="cpu")
    pointer = device.put(craft_frame)
    device.fail("synchronize", "cudaErrorLaunchFailure")
    with pytest.raises(DeviceError, match="cudaErrorLaunchFailure"):
        session(DeviceFrame(pointer=pointer, shape=craft_frame.shape))
    assert session(craft_frame).box_xyxy.tolist() == BOX
    device.sticky = ""
    device.free(pointer)


def test_a_gpu_without_room_is_passed_over_at_load_when_that_was_asked_for(
    make_session: Callable[..., Session], device: FakeDevice, craft_frame: NDArray[np.uint8]
) -> None:
    device.room_bytes = 1000
    with pytest.raises(DeviceError, match="cudaErrorMemoryAllocation"):
        make_session()
    session = make_session(on_device_error="cpu")
    assert "cudaErrorMemoryAllocation" in session.choice.fallback
    assert session(craft_frame).box_xyxy.tolist() == BOX


@without_gpu_package
def test_a_machine_without_a_gpu_is_an_error_or_the_cpu_as_asked(
    color_bundle: Path, craft_frame: NDArray[np.uint8]
) -> None:
    with pytest.raises(MissingPartError, match="pip uninstall -y onnxruntime"):
        load(color_bundle, backend=GPU_BACKEND)
    with load(color_bundle, backend=GPU_BACKEND, on_device_error="cpu", threads=1) as session:
        assert "onnxruntime-cuda is missing" in session.choice.fallback
        assert session(craft_frame).box_xyxy.tolist() == BOX


def test_a_bundle_without_plans_says_so(color_bundle: Path) -> None:
    with pytest.raises(UsageError, match="no variant with tta none that backend tensorrt runs"):
        load(color_bundle, backend="tensorrt")


def test_an_unknown_policy_is_refused(color_bundle: Path) -> None:
    with pytest.raises(UsageError, match="choose one of raise, cpu"):
        load(color_bundle, on_device_error="hope")  # type: ignore[arg-type]


def test_on_the_cpu_a_submitted_frame_is_answered_at_once(color_bundle: Path, craft_frame: NDArray[np.uint8]) -> None:
    with load(color_bundle, backend="onnxruntime", threads=1) as session:
        ticket = session.submit(craft_frame)
        assert ticket.is_done()
        assert ticket.result().box_xyxy.tolist() == BOX
        with pytest.raises(UsageError, match="can't stay on a GPU"):
            session.submit(craft_frame, parts_on_device=True)
        with pytest.raises(UsageError, match="the frame is on a GPU"):
            session(DlpackOnGpu(4096, craft_frame.shape))


def test_a_plan_for_which_there_is_no_room_is_out_of_memory(
    device: FakeDevice, make_graph: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, api = make_graph(), fake_api(device)
    monkeypatch.setattr(tensorrt_, "load_engine_api", lambda _: api)
    gpu = GpuOptions(sidecar=sidecar_of(plan), frame_size_px=(96, 128))
    for order, room in (("plan", 2), ("context", 1)):
        api.trt.orders[order] = True
        with pytest.raises(DeviceMemoryError, match=rf"no room for {room} GiB\. Free memory on the GPU"):
            tensorrt_.tensorrt_backend(plan, threads=1, spinning=False, gpu=gpu)
        assert not device.memory
    api.trt.orders["enqueue"] = True
    backend = tensorrt_.tensorrt_backend(plan, threads=1, spinning=False, gpu=gpu)
    with pytest.raises(DeviceError, match="cannot launch a kernel") as caught:
        backend.run(np.zeros((96, 128, 3), np.uint8))
    assert not isinstance(caught.value, DeviceMemoryError)
    backend.close()
