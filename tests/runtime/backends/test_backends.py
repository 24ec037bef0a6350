"""One tester that every backend passes: same cases, stated tolerance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from spacecompile.errors import FrameError, IntegrityError, UsageError
from spacecompile.runtime.backends import Backend, GraphSignature, RawAnswer
from spacecompile.runtime.backends.onnxruntime_ import OnnxRuntimeBackend
from spacecompile.runtime.backends.registry import BackendFactory

PROBS_TOLERANCE = 1e-5
"""Of engines in float32: they sum in different orders."""


class BackendTester:
    """The promises of `Backend`. A subclass names the factory."""

    factory: BackendFactory

    @pytest.fixture
    def backend(self, make_graph: Callable[..., bytes]) -> Backend:
        return type(self).factory(make_graph(), threads=1, spinning=False)

    def test_it_answers_as_the_graph_says(self, backend: Backend, craft_frame: NDArray[np.uint8]) -> None:
        raw = backend.run(craft_frame)
        means = craft_frame.mean(axis=(0, 1)) * 0.1
        expected = np.exp(means) / np.exp(means).sum()
        np.testing.assert_allclose(raw.class_probs_L, expected, atol=PROBS_TOLERANCE)
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
        backend = type(self).factory(make_graph(), threads=2, spinning=True)
        first, second = backend.run(craft_frame), backend.run(craft_frame)
        for before, after in zip(arrays_of(first), arrays_of(second), strict=True):
            np.testing.assert_array_equal(before, after)

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

    @pytest.mark.parametrize("shape", [(96, 127, 3), (3, 96, 128), (96, 128)], ids=str)
    def test_a_frame_that_does_not_fit_is_refused(self, backend: Backend, shape: tuple[int, ...]) -> None:
        with pytest.raises(FrameError):
            backend.run(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("damage", ["empty", "noise", "truncated"])
    def test_bytes_that_are_no_graph_are_refused(self, make_graph: Callable[..., bytes], damage: str) -> None:
        graph = make_graph()
        content = {"empty": b"", "noise": b"\x93NUMPY" * 40, "truncated": graph[: len(graph) // 2]}[damage]
        with pytest.raises(IntegrityError, match="Build the bundle again"):
            type(self).factory(content, threads=1, spinning=False)

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
            type(self).factory(make_graph(**change), threads=1, spinning=False)

    def test_the_order_of_outputs_in_the_file_does_not_matter(
        self, make_graph: Callable[..., bytes], craft_frame: NDArray[np.uint8]
    ) -> None:
        graph = make_graph(outputs=("health", "box_xyxy", "parts", "class_probs"))
        raw = type(self).factory(graph, threads=1, spinning=False).run(craft_frame)
        assert raw.box_xyxy.tolist() == [30, 20, 90, 40]

    def test_no_threads_are_refused(self, make_graph: Callable[..., bytes]) -> None:
        with pytest.raises(UsageError, match="at least one"):
            type(self).factory(make_graph(), threads=0, spinning=False)

    def test_closing_twice_is_harmless_and_running_after_it_is_refused(
        self, backend: Backend, craft_frame: NDArray[np.uint8]
    ) -> None:
        backend.close()
        backend.close()
        with pytest.raises(UsageError, match="closed"):
            backend.run(craft_frame)


class TestOnnxRuntime(BackendTester):
    factory = OnnxRuntimeBackend


def arrays_of(raw: RawAnswer) -> list[NDArray[np.generic]]:
    return [raw.class_probs_L, raw.parts_HW, raw.box_xyxy, raw.health]
