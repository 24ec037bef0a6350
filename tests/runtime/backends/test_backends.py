"""One tester that every backend passes: same cases, stated tolerance."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import FakeDevice
from fake_tensorrt import install, sidecar_of
from numpy.typing import NDArray
from onnx import TensorProto

from spacecompile.contract import Precision
from spacecompile.errors import FrameError, IntegrityError, UsageError
from spacecompile.runtime.backend import Backend, GpuOptions, GraphSignature, RawAnswer
from spacecompile.runtime.backends.onnxruntime_ import OnnxRuntimeBackend
from spacecompile.runtime.backends.registry import BackendFactory, entry_named
from spacecompile.runtime.cpu import cpu_features
from spacecompile.runtime.cuda.driver import probe_cuda


class BackendTester:
    """The promises of `Backend`. A subclass names the factory and the precision.

    `probs_tolerance` is the largest error of a class probability: engines in float32 sum in different orders.
    """

    factory: BackendFactory
    precision: Precision = "fp32"
    probs_tolerance = 1e-5

    def make(self, graph: bytes, *, threads: int = 1, spinning: bool = False) -> Backend:
        return type(self).factory(graph, precision=self.precision, threads=threads, spinning=spinning)

    @pytest.fixture
    def backend(self, make_graph: Callable[..., bytes]) -> Backend:
        return self.make(make_graph())

    def test_it_answers_as_the_graph_says(self, backend: Backend, craft_frame: NDArray[np.uint8]) -> None:
        raw = backend.run(craft_frame)
        means = craft_frame.mean(axis=(0, 1)) * 0.1
        expected = np.exp(means) / np.exp(means).sum()
        np.testing.assert_allclose(raw.class_probs_L, expected, atol=self.probs_tolerance)
        np.testing.assert_array_equal(
            raw.parts_HW, (craft_frame[..., 0] > 127) * np.uint8(1) + (craft_frame[..., 2] > 127) * np.uint8(2)
        )
        assert raw.box_xyxy.tolist() == [30, 20, 90, 40]
        assert raw.health[1:4].tolist() == [255, 400, 400]

    def test_outputs_have_the_dtypes_of_the_contract(self, backend: Backend, craft_frame: NDArray[np.uint8]) -> None:
        raw = backend.run(craft_frame)
        assert [array.dtype for array in arrays_of(raw)] == [np.float32, np.uint8, np.float32, np.float32]

    def test_it_says_what_graph_it_holds(self, backend: Backend) -> None:
        assert backend.signature == GraphSignature(frame_size_px=(96, 128), num_classes=3)
        assert backend.name
        assert backend.version[0].isdigit()

    def test_two_runs_agree_bit_for_bit(self, make_graph: Callable[..., bytes], craft_frame: NDArray[np.uint8]) -> None:
        backend = self.make(make_graph(), threads=2, spinning=True)
        first, second = backend.run(craft_frame), backend.run(craft_frame)
        for before, after in zip(arrays_of(first), arrays_of(second), strict=True):
            np.testing.assert_array_equal(before, after)

    def test_every_frame_of_a_stream_gets_its_own_answer(
        self, backend: Backend, craft_frame: NDArray[np.uint8]
    ) -> None:
        for shift in range(6):
            raw = backend.run(np.roll(craft_frame, shift, axis=1))
            assert raw.box_xyxy.tolist() == [30 + shift, 20, 90 + shift, 40]

    def test_a_frame_that_is_submitted_gets_the_answer_of_a_run(
        self, backend: Backend, craft_frame: NDArray[np.uint8]
    ) -> None:
        backend.warm_up(np.zeros_like(craft_frame))
        assert backend.in_flight_max >= 1
        ticket = backend.submit(craft_frame)
        raw = ticket.result()
        assert isinstance(raw, RawAnswer)
        assert ticket.at_once in (None, raw)
        assert ticket.is_done()
        for array, expected in zip(arrays_of(raw), arrays_of(backend.run(craft_frame)), strict=True):
            np.testing.assert_array_equal(array, expected)

    def test_the_caller_owns_the_arrays(self, backend: Backend, craft_frame: NDArray[np.uint8]) -> None:
        first = backend.run(craft_frame)
        kept = [array.copy() for array in arrays_of(first)]
        second = backend.run(np.zeros_like(craft_frame))
        for array, copy, other in zip(arrays_of(first), kept, arrays_of(second), strict=True):
            np.testing.assert_array_equal(array, copy)
            assert not np.shares_memory(array, other)
        backend.close()
        for array, copy in zip(arrays_of(first), kept, strict=True):
            np.testing.assert_array_equal(array, copy)

    def test_the_frame_is_left_alone(self, backend: Backend, craft_frame: NDArray[np.uint8]) -> None:
        before = craft_frame.copy()
        backend.run(craft_frame)
        np.testing.assert_array_equal(craft_frame, before)

    def test_a_frame_that_can_not_be_written_to_is_answered(
        self, backend: Backend, craft_frame: NDArray[np.uint8]
    ) -> None:
        craft_frame.flags.writeable = False  # as Pillow hands it over
        assert backend.run(craft_frame).box_xyxy.tolist() == [30, 20, 90, 40]

    @pytest.mark.parametrize("shape", [(96, 127, 3), (3, 96, 128), (96, 128), (1, 1, 3)], ids=str)
    def test_a_frame_that_does_not_fit_is_refused(self, backend: Backend, shape: tuple[int, ...]) -> None:
        with pytest.raises(FrameError):
            backend.run(np.zeros(shape, np.uint8))

    def test_a_frame_of_another_dtype_is_refused(self, backend: Backend) -> None:
        with pytest.raises(FrameError):
            backend.run(np.zeros((96, 128, 3), np.float32))  # type: ignore[arg-type]

    @pytest.mark.parametrize("damage", ["empty", "noise", "truncated"])
    def test_bytes_that_are_no_graph_are_refused(self, make_graph: Callable[..., bytes], damage: str) -> None:
        graph = make_graph()
        content = {"empty": b"", "noise": b"\x93NUMPY" * 40, "truncated": graph[: len(graph) // 2]}[damage]
        with pytest.raises(IntegrityError, match="Build the bundle again"):
            self.make(content)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"outputs": ("class_probs", "parts", "box_xyxy")}, "outputs"),
            ({"probs_dtype": TensorProto.FLOAT16}, "class_probs of dtype float16"),
        ],
        ids=["an output is missing", "a dtype differs"],
    )
    def test_a_graph_off_the_contract_is_refused(
        self, make_graph: Callable[..., bytes], change: dict[str, object], message: str
    ) -> None:
        with pytest.raises(IntegrityError, match=message):
            self.make(make_graph(**change))

    def test_the_order_of_outputs_in_the_file_does_not_matter(
        self, make_graph: Callable[..., bytes], craft_frame: NDArray[np.uint8]
    ) -> None:
        graph = make_graph(outputs=("health", "box_xyxy", "parts", "class_probs"))
        raw = self.make(graph).run(craft_frame)
        assert raw.box_xyxy.tolist() == [30, 20, 90, 40]

    def test_no_threads_are_refused(self, make_graph: Callable[..., bytes]) -> None:
        with pytest.raises(UsageError, match="at least one"):
            self.make(make_graph(), threads=0)

    def test_closing_twice_is_harmless_and_running_after_it_is_refused(
        self, backend: Backend, craft_frame: NDArray[np.uint8]
    ) -> None:
        backend.close()
        backend.close()
        with pytest.raises(UsageError, match="closed"):
            backend.run(craft_frame)


class TestOnnxRuntime(BackendTester):
    factory = OnnxRuntimeBackend


def make_openvino(
    model_bytes: bytes, *, precision: Precision, threads: int, spinning: bool, cache: bool = True
) -> Backend:
    from spacecompile.runtime.backends.openvino_ import OpenVinoBackend

    return OpenVinoBackend(model_bytes, precision=precision, threads=threads, spinning=spinning, cache=cache)


@pytest.mark.skipif(find_spec("openvino") is None, reason="the openvino extra is not installed")
class TestOpenVino(BackendTester):
    factory = staticmethod(make_openvino)


@pytest.mark.skipif(find_spec("openvino") is None, reason="the openvino extra is not installed")
@pytest.mark.skipif(not cpu_features() & {"amx_bf16", "avx512_bf16"}, reason="this CPU does not compute in bf16")
class TestOpenVinoInBf16(BackendTester):
    factory = staticmethod(make_openvino)
    precision = "bf16"
    probs_tolerance = 4e-3
    """Half a unit in the last place of bf16 is 2**-9 = 2e-3 of a value: once for the logit, once for the result."""


@pytest.fixture
def fake_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeDevice:
    """What the backends for a GPU open instead of one."""
    device = FakeDevice(is_late=request.cls is TestTensorRtOnAFakeGpu)
    install(monkeypatch, tmp_path, device)
    return device


def make_onnxruntime_cuda(
    model_bytes: bytes, *, precision: Precision, threads: int, spinning: bool, cache: bool = True
) -> Backend:
    from spacecompile.runtime.backends.onnxruntime_cuda_ import onnxruntime_cuda_backend

    return onnxruntime_cuda_backend(
        model_bytes, precision=precision, threads=threads, spinning=spinning, cache=cache, gpu=GpuOptions(in_flight=2)
    )


def make_tensorrt(
    model_bytes: bytes, *, precision: Precision, threads: int, spinning: bool, cache: bool = True
) -> Backend:
    from spacecompile.runtime.backends.tensorrt_ import tensorrt_backend

    gpu = GpuOptions(in_flight=2, sidecar=sidecar_of(model_bytes), frame_size_px=(96, 128))
    return tensorrt_backend(model_bytes, precision=precision, threads=threads, spinning=spinning, cache=cache, gpu=gpu)


@pytest.mark.usefixtures("fake_device")
class TestOnnxRuntimeCudaOnAFakeGpu(BackendTester):
    factory = staticmethod(make_onnxruntime_cuda)


@pytest.mark.usefixtures("fake_device")
class TestTensorRtOnAFakeGpu(BackendTester):
    factory = staticmethod(make_tensorrt)


def gpu_problem(name: str) -> str:
    """Why a backend can't run on a GPU here; empty when it can."""
    problem = probe_cuda().problem or entry_named(name).missing()
    return problem or ""


@pytest.mark.gpu
@pytest.mark.skipif(bool(gpu_problem("onnxruntime-cuda")), reason=gpu_problem("onnxruntime-cuda"))
class TestOnnxRuntimeCuda(BackendTester):
    factory = staticmethod(make_onnxruntime_cuda)


def arrays_of(raw: RawAnswer) -> list[NDArray[np.generic]]:
    return [raw.class_probs_L, raw.parts_HW, raw.box_xyxy, raw.health]
