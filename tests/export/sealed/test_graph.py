from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import nn

from spacecompile.box_rule import BoxHead, BoxRule
from spacecompile.contract import HEALTH_SIGNALS, ModelSpec, Tta
from spacecompile.errors import UsageError
from spacecompile.export.engine.legality import illegal_nodes
from spacecompile.export.parity.frame_set import adversarial_frames
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.export.sealed.to_onnx import export_onnx
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.network.model import BoxResidualHead
from spacecompile.runtime.backends.onnxruntime_ import OnnxRuntimeBackend
from spacecompile.runtime.backends.openvino_import import openvino_core

INPUT_SIZE_PX = (64, 64)


def random_frame(size_px: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Bright blobs on a dark sky."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (size_px[0] // 8 + 1, size_px[1] // 8 + 1, 3)) * (rng.random(3) < 0.7)
    frame_HWC = cells.repeat(8, axis=0).repeat(8, axis=1)[: size_px[0], : size_px[1]]
    return (frame_HWC * 0.8 + rng.integers(0, 40, frame_HWC.shape)).astype(np.uint8)


def answer(graph: SealedGraph, frame_HWC: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
    with torch.inference_mode():
        return tuple(output.numpy() for output in graph(torch.from_numpy(frame_HWC.copy())))


@pytest.mark.parametrize(
    ("tta", "fields"),
    [
        pytest.param("none", {"frame_size_px": (128, 128)}, id="none"),
        pytest.param("d4", {"frame_size_px": (128, 128)}, id="d4"),
        pytest.param("d4-median", {"frame_size_px": (128, 128)}, id="d4-median"),
        pytest.param("d4", {"frame_size_px": (200, 168)}, id="d4, ratios that are not whole"),
        pytest.param(
            "none",
            {
                "frame_size_px": (128, 192),
                "input_size_px": (64, 96),
                "mask_upsampling": "align_corners",
                "part_thresholds": (0.3, 0.6),
                "box": BoxRule(threshold=0.7, margins_px=(3.0, -1.0, 2.5, 4.0)),
            },
            id="not square, aligned corners, its own thresholds and margins",
        ),
        pytest.param(
            "none",
            {"frame_size_px": (128, 128), "box": BoxRule(threshold=0.3, softness=0.4, margin_shares=(0.1,) * 4)},
            id="soft edges, margins by share",
        ),
        pytest.param("none", {"frame_size_px": (128, 128), "box": BoxRule(support_px=9)}, id="support"),
        pytest.param(
            "d4",
            {"frame_size_px": (128, 128), "box_d4": BoxRule(views="median", threshold=0.4, softness=0.2)},
            id="d4, median of soft boxes",
        ),
        pytest.param(
            "d4-median",
            {
                "frame_size_px": (200, 168),
                "box_d4": BoxRule(views="median", support_px=4, residual=True),
                "box_head": BoxHead(channels=4),
            },
            id="d4, median of boxes with support and residuals, ratios that are not whole",
        ),
    ],
)
def test_the_exported_file_answers_as_the_module_does(
    small_network: nn.Module, tta: Tta, fields: dict[str, Any]
) -> None:
    spec = ModelSpec(**({"input_size_px": INPUT_SIZE_PX} | fields))
    graph = SealedGraph(with_residuals(small_network) if spec.box_head else small_network, spec, tta)
    model_bytes = export_onnx(graph, spec.frame_size_px, facts={})
    assert not illegal_nodes(onnx.load_from_string(model_bytes))
    backend = OnnxRuntimeBackend(model_bytes, threads=1, spinning=False)
    compiled = openvino_model(model_bytes)
    frames = [random_frame(spec.frame_size_px), *(frame.frame_HWC for frame in adversarial_frames(spec.frame_size_px))]
    for frame_HWC in frames:
        expected = answer(graph, frame_HWC)
        raw = backend.run(frame_HWC)
        check_close((raw.class_probs_L, raw.parts_HW, raw.box_xyxy, raw.health), expected)
        given = compiled(frame_HWC)
        check_close(tuple(given[name] for name in ("class_probs", "parts", "box_xyxy", "health")), expected)
    assert 0 < np.count_nonzero(answer(graph, frames[0])[1]) < frames[0][..., 0].size


CONFIDENCE = HEALTH_SIGNALS.index("part_confidence")


class Poisoned(nn.Module):
    """A network of the tests with one part logit that is no number."""

    def __init__(self, network: nn.Module, poison: float) -> None:
        super().__init__()
        self.network, self.poison = network, poison

    def forward(self, input_NCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        class_logits_NL, part_logits_NKhw, *rest = self.network(input_NCHW)
        spot_hw = torch.zeros(part_logits_NKhw.shape[2:])
        spot_hw[3, 2] = self.poison
        return class_logits_NL, part_logits_NKhw + spot_hw, *rest


@pytest.mark.parametrize("tta", ["none", "d4"])
@pytest.mark.parametrize("frame_size_px", [(64, 64), (256, 256), (200, 168)])
def test_a_part_logit_that_is_no_number_shows_in_the_health_signals(
    small_network: nn.Module, tta: Tta, frame_size_px: tuple[int, int]
) -> None:
    spec = ModelSpec(input_size_px=INPUT_SIZE_PX, frame_size_px=frame_size_px)
    frame_HWC = random_frame(frame_size_px)
    for poison, is_sound in ((0.5, True), (float("nan"), False)):
        graph = SealedGraph(Poisoned(small_network, poison), spec, tta)
        model_bytes = export_onnx(graph, frame_size_px, facts={})
        raw = OnnxRuntimeBackend(model_bytes, threads=1, spinning=False).run(frame_HWC)
        health = openvino_model(model_bytes)(frame_HWC)["health"]
        assert (bool(np.isfinite(raw.health[CONFIDENCE])), bool(np.isfinite(health[CONFIDENCE]))) == (
            is_sound,
            is_sound,
        )


class WithResiduals(nn.Module):
    """A network of the tests with a box head on the input itself."""

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, input_NCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return *self.network(input_NCHW), self.head(input_NCHW)


def with_residuals(network: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        head = BoxResidualHead(3, BoxHead(channels=4, bound=0.5))
        nn.init.normal_(head.much.weight)
        nn.init.normal_(head.much.bias)
    return WithResiduals(network, head).eval()


def openvino_model(model_bytes: bytes) -> Any:
    """The same bytes in OpenVINO on the CPU, in full precision."""
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    core = openvino_core()
    return core.compile_model(core.read_model(model_bytes), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def check_close(given: tuple[NDArray[Any], ...], expected: tuple[NDArray[Any], ...]) -> None:
    for output, wanted in zip(given, expected, strict=True):
        assert output.dtype == wanted.dtype
        assert output.shape == wanted.shape
    np.testing.assert_allclose(given[0], expected[0], atol=1e-5)
    assert np.count_nonzero(given[1] != expected[1]) <= 1
    np.testing.assert_allclose(given[2], expected[2], atol=1e-3)
    np.testing.assert_allclose(given[3], expected[3], rtol=1e-4, atol=1.001)


def test_the_module_answers_as_a_plain_pipeline_does(
    tiny_checkpoint: Path, toy_frames: list[NDArray[np.uint8]]
) -> None:
    """The reference network at twice its input: NumPy pooling, the bare network, torch's resize, NumPy for the rest."""
    loaded = load_checkpoint(tiny_checkpoint)
    spec = loaded.spec
    graph = SealedGraph(loaded.network, spec)
    for frame_HWC in toy_frames[:3]:
        pooled_HWC = frame_HWC.reshape(64, 2, 64, 2, 3).astype(np.float64).mean(axis=(1, 3)) / 255
        input_HWC = (pooled_HWC - spec.mean) / spec.std
        with torch.inference_mode():
            class_logits, part_logits = loaded.network(torch.from_numpy(input_HWC).float().permute(2, 0, 1)[None])
            probs_KHW = torch.sigmoid(torch.nn.functional.interpolate(part_logits, (128, 128), mode="bilinear"))[
                0
            ].numpy()
        class_probs_L, parts_HW, box_xyxy, health = answer(graph, frame_HWC)
        np.testing.assert_allclose(class_probs_L, torch.softmax(class_logits[0], 0).numpy(), atol=1e-4)
        expected_HW = (probs_KHW[0] > 0.5) + 2 * (probs_KHW[1] > 0.5)
        assert np.count_nonzero(parts_HW != expected_HW) <= 1
        rows, columns = np.nonzero(expected_HW)
        tight = [columns.min() - 1, rows.min() - 2, columns.max() + 1.5, rows.max() + 2.5]
        np.testing.assert_allclose(box_xyxy, np.clip(tight, 0, 128))
        signals = dict(zip(HEALTH_SIGNALS, health.tolist(), strict=True))
        assert signals["frame_mean"] == pytest.approx(frame_HWC.mean(), abs=1e-3)
        assert signals["frame_max"] == pytest.approx(255 * pooled_HWC.max(), abs=1e-2)
        assert signals["body_px"] == np.count_nonzero(parts_HW & 1)
        assert signals["panel_px"] == np.count_nonzero(parts_HW & 2)
        assert signals["part_confidence"] == pytest.approx(probs_KHW.max(), abs=1e-4)
        assert signals["view_disagreement"] == 0


@pytest.mark.parametrize("tta", ["d4", "d4-median"])
def test_with_d4_a_turned_frame_gets_the_turned_answer(small_network: nn.Module, tta: Tta) -> None:
    spec = ModelSpec(input_size_px=INPUT_SIZE_PX, frame_size_px=(128, 128))
    graph = SealedGraph(small_network, spec, tta)
    frame_HWC = random_frame((128, 128), seed=3)
    probs_L, parts_HW, box_xyxy, health = answer(graph, frame_HWC)
    turned_probs_L, turned_parts_HW, turned_box_xyxy, turned_health = answer(graph, np.rot90(frame_HWC))
    assert np.count_nonzero(parts_HW) > 100
    np.testing.assert_allclose(turned_probs_L, probs_L, atol=1e-5)
    assert np.count_nonzero(turned_parts_HW != np.rot90(parts_HW)) <= 2
    left, top, right, bottom = box_xyxy
    np.testing.assert_allclose(turned_box_xyxy, [top, 128 - right, bottom, 128 - left], atol=1)
    np.testing.assert_allclose(turned_health, health, rtol=1e-3, atol=2)
    assert health[5] > 0.01


def test_with_d4_and_a_box_head_a_turned_frame_gets_the_turned_box(small_network: nn.Module) -> None:
    rule = BoxRule(residual=True, margins_px=(-20.0,) * 4)
    for views in ("mask", "median"):
        box_d4 = replace(rule, views=views)
        spec = ModelSpec(input_size_px=INPUT_SIZE_PX, frame_size_px=(128, 128), box_d4=box_d4, box_head=BoxHead())
        graph = SealedGraph(with_residuals(small_network), spec, "d4")
        frame_HWC = random_frame((128, 128), seed=3)
        left, top, right, bottom = answer(graph, frame_HWC)[2]
        turned_box_xyxy = answer(graph, np.rot90(frame_HWC))[2]
        np.testing.assert_allclose(turned_box_xyxy, [top, 128 - right, bottom, 128 - left], atol=1)
        assert 0 < left < right < 128
        assert left != pytest.approx(20, abs=1)  # the residual moved it


def test_without_d4_the_network_does_not_turn_with_its_frame(small_network: nn.Module) -> None:
    """Else the test above could not fail."""
    graph = SealedGraph(small_network, ModelSpec(input_size_px=INPUT_SIZE_PX, frame_size_px=(128, 128)))
    frame_HWC = random_frame((128, 128), seed=3)
    parts_HW, turned_parts_HW = answer(graph, frame_HWC)[1], answer(graph, np.rot90(frame_HWC))[1]
    assert np.count_nonzero(turned_parts_HW != np.rot90(parts_HW)) > 100


def test_d4_of_an_input_that_is_not_square_is_refused_by_name(small_network: nn.Module) -> None:
    spec = ModelSpec(input_size_px=(64, 96), frame_size_px=(128, 192))
    with pytest.raises(UsageError, match=r"variant d4 turns .* 64x96, not square"):
        SealedGraph(small_network, spec, "d4")
