from __future__ import annotations

import dataclasses
import re
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from spacecompile.contract import FP32_TOLERANCE, TOLERANCES, Cost, ModelSpec, Tolerance
from spacecompile.errors import ParityError, UsageError
from spacecompile.export.parity.frame_set import Kind, ParityFrame, Truth, adversarial_frames
from spacecompile.export.parity.reference import (
    LOGIT_BAND,
    ExpectedAnswer,
    ViewByView,
    expected_answers,
    parts_at_band_ends,
)
from spacecompile.export.parity.score_drop import Scoring
from spacecompile.export.parity.verdict import (
    ParityReport,
    VariantParity,
    check_parity,
    require_parity,
    verdict_on,
)
from spacecompile.export.sealed.box_of_maxima import logit
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.export.sealed.parts_in_frame import PartsInFrame
from spacecompile.export.sealed.to_onnx import export_onnx
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.backends.onnxruntime_ import OnnxRuntimeBackend

SPEC = ModelSpec(input_size_px=(64, 64), frame_size_px=(128, 128))
SIDE_PX = 100


def raw_answer(**changes: Any) -> RawAnswer:
    """An answer with a 20x50 px body and no panel."""
    parts_HW = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    parts_HW[10:30, 20:70] = 1
    fields: dict[str, Any] = {
        "class_probs_L": np.array([0.2, 0.7, 0.1], np.float32),
        "parts_HW": parts_HW,
        "box_xyxy": np.array([20, 10, 70, 30], np.float32),
        "health": np.array([10, 200, 1000, 0, 0.9, 0], np.float32),
    }
    fields |= changes
    if "parts_HW" in changes:
        body_px, panel_px = (np.count_nonzero(changes["parts_HW"] >> bit & 1) for bit in (0, 1))
        fields["health"] = np.array([10, 200, body_px, panel_px, 0.9, 0], np.float32)
    return RawAnswer(**fields)


def with_pixels(count: int, bits: int) -> NDArray[np.uint8]:
    """The parts of `raw_answer` with some pixels of row 50 set besides."""
    parts_HW = raw_answer().parts_HW.copy()
    parts_HW[50, :count] = bits
    return parts_HW


def expected_case(
    index: int,
    kind: Kind = "real",
    *,
    band_boxes: tuple[tuple[float, ...], ...] = (),
    undecided_HW: NDArray[np.uint8] | None = None,
) -> ExpectedAnswer:
    """Frame `frame-{index}`, to which PyTorch gives `raw_answer()`."""
    return ExpectedAnswer(
        frame=ParityFrame(name=f"frame-{index}", kind=kind, frame_HWC=np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)),
        answer=raw_answer(),
        boxes_B4=np.array([raw_answer().box_xyxy, *band_boxes], np.float32),
        undecided_HW=np.zeros((SIDE_PX, SIDE_PX), np.uint8) if undecided_HW is None else undecided_HW,
    )


def judged(
    *given: RawAnswer,
    tolerance: Tolerance = FP32_TOLERANCE,
    band_boxes: tuple[tuple[float, ...], ...] = (),
    undecided_HW: NDArray[np.uint8] | None = None,
) -> VariantParity:
    """The verdict on answers to frames `frame-0`, `frame-1`, ..., to all of which PyTorch gives `raw_answer()`."""
    expected = [expected_case(index, band_boxes=band_boxes, undecided_HW=undecided_HW) for index in range(len(given))]
    return verdict_on("fp32", backend="test", sha256="0" * 64, expected=expected, given=given, tolerance=tolerance)


def test_equal_answers_pass_with_no_error_anywhere() -> None:
    verdict = judged(raw_answer(), raw_answer())
    assert verdict.passed
    assert (verdict.class_agreement, verdict.class_probs_max, verdict.parts_iou_min, verdict.box_px_max) == (1, 0, 1, 0)
    assert all((stats.max, stats.mean, stats.p999) == (0, 0, 0) for stats in verdict.outputs.values())
    assert verdict.num_frames == {"real": 2}
    require_parity(verdict)


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        pytest.param(
            {"class_probs_L": np.array([0.2, 0.6998, 0.1], np.float32)},
            r"a class probability is off by 0\.0002 \(most 0\.0001\) on frame-1",
            id="class probability",
        ),
        pytest.param(
            {"class_probs_L": np.array([0.8, 0.1, 0.1], np.float32)},
            r"the class agrees on 66\.67% of the frames \(least 100\.00%\), not on frame-1",
            id="class",
        ),
        pytest.param(
            {"parts_HW": with_pixels(2, 1)},
            r"a part has IoU 0\.9980 \(least 0\.999\), 2 pixels differ, on frame-1",
            id="body IoU",
        ),
        pytest.param(
            {"parts_HW": with_pixels(1, 2)},
            r"a part has IoU 0\.0000 .*1 pixels differ, on frame-1",
            id="panel where there is none",
        ),
        pytest.param(
            {"box_xyxy": np.array([20, 10, 70.75, 30], np.float32)},
            r"a box edge is off by 0\.75 px \(most 0\.5\) on frame-1",
            id="box",
        ),
        pytest.param(
            {"box_xyxy": np.array([20, np.nan, 70, 30], np.float32)},
            r"the file puts out .*box \[20. nan 70. 30.\].* on frame-1",
            id="box that is NaN",
        ),
        pytest.param(
            {"class_probs_L": np.full(3, np.nan, np.float32)},
            r"the file puts out class probabilities \[nan nan nan\].* on frame-1",
            id="class probabilities that are NaN",
        ),
        pytest.param(
            {"health": np.array([10, 200, 1000, 0, np.nan, 0], np.float32)},
            r"the file puts out .*health \[ *10\. .*nan .* on frame-1",
            id="health that is NaN",
        ),
    ],
)
def test_one_bad_frame_of_three_fails_the_variant_and_is_named(changes: dict[str, Any], failure: str) -> None:
    verdict = judged(raw_answer(), raw_answer(**changes), raw_answer())
    assert not verdict.passed
    with pytest.raises(ParityError, match=failure) as raised:
        require_parity(verdict)
    assert "variant fp32 " in str(raised.value)
    assert raised.value.exit_code == 5


def test_views_one_by_one_give_the_batchs_answers(reference: SealedGraph) -> None:
    input_NCHW = torch.randn(8, 3, *SPEC.input_size_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for one_by_one, together in zip(
            ViewByView(reference.network)(input_NCHW), reference.network(input_NCHW), strict=True
        ):
            torch.testing.assert_close(one_by_one, together, rtol=1e-4, atol=1e-5)


def test_no_view_is_answered_twice(reference: SealedGraph) -> None:
    network, seen = ViewByView(reference.network), []
    hook = reference.network.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    frame = adversarial_frames(SPEC.frame_size_px)[5]
    assert frame.name == "noise"
    for tta, views in (("none", 1), ("d4", 8), ("d4-median", 8)):
        expected_answers(SealedGraph(network, SPEC, tta), [frame])
        assert len(seen) == views
    hook.remove()


def test_frames_side_by_side_get_the_answers_that_they_get_alone(reference: SealedGraph) -> None:
    frames = adversarial_frames(SPEC.frame_size_px)
    threads = torch.get_num_threads()
    alone, together = (expected_answers(reference, frames, workers=workers) for workers in (1, 3))
    assert torch.get_num_threads() == threads
    for one, other, frame in zip(alone, together, frames, strict=True):
        assert one.frame is other.frame is frame
        assert np.array_equal(one.boxes_B4, other.boxes_B4)
        for name in ("class_probs_L", "parts_HW", "box_xyxy", "health"):
            assert np.array_equal(getattr(one.answer, name), getattr(other.answer, name))


def test_errors_within_the_tolerance_pass_and_are_reported() -> None:
    slightly = raw_answer(
        class_probs_L=np.array([0.20005, 0.69995, 0.1], np.float32),
        parts_HW=with_pixels(1, 1),
        box_xyxy=np.array([20.25, 10, 70, 30], np.float32),
    )
    verdict = judged(raw_answer(), slightly)
    assert verdict.passed
    assert verdict.class_probs_max == pytest.approx(5e-5, rel=1e-2)
    assert verdict.parts_iou_min == pytest.approx(1000 / 1001)
    assert verdict.box_px_max == 0.25
    assert verdict.worst_frames == {"class_probs": "frame-1", "parts_iou": "frame-1", "box_px": "frame-1"}
    assert verdict.frames[1].parts_differing_px == 1
    assert verdict.outputs["parts"].mean == pytest.approx(1 / (2 * SIDE_PX**2))
    assert verdict.outputs["box_xyxy"].max == 0.25
    assert verdict.outputs["box_xyxy"].mean == pytest.approx(0.25 / 8)


@pytest.fixture
def reference(small_network: nn.Module) -> SealedGraph:
    return SealedGraph(small_network, SPEC)


def test_an_exported_file_passes_on_adversarial_frames(reference: SealedGraph) -> None:
    model_bytes = export_onnx(reference, SPEC.frame_size_px, facts={})
    expected = expected_answers(reference, adversarial_frames(SPEC.frame_size_px))
    seen: list[tuple[str, int, int]] = []
    verdict = check_parity(
        "fp32",
        OnnxRuntimeBackend(model_bytes, threads=1, spinning=False),
        expected,
        sha256="f" * 64,
        tolerance=FP32_TOLERANCE,
        progress=lambda step, done, total: seen.append((step, done, total)),
    )
    assert verdict.passed, verdict.failures
    assert verdict.backend.startswith("onnxruntime ")
    assert verdict.sha256 == "f" * 64
    assert verdict.num_frames == {"adversarial": 8}
    assert verdict.score_drop is None
    assert seen[-1] == ("parity fp32, onnxruntime", 8, 8)


def test_one_changed_weight_in_the_file_is_found(reference: SealedGraph) -> None:
    model = onnx.load_from_string(export_onnx(reference, SPEC.frame_size_px, facts={}))
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "network.classes.bias")
    changed = numpy_helper.to_array(weight).copy()
    changed[0] += 0.01
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    expected = expected_answers(reference, adversarial_frames(SPEC.frame_size_px))
    backend = OnnxRuntimeBackend(model.SerializeToString(), threads=1, spinning=False)
    verdict = check_parity("fp32", backend, expected, sha256="", tolerance=FP32_TOLERANCE)
    assert not verdict.passed
    assert "a class probability is off by" in verdict.failures[0]


def test_the_report_survives_json(reference: SealedGraph) -> None:
    report = ParityReport(
        reference="torch",
        backend="onnxruntime",
        reference_threads=1,
        backend_threads=2,
        variants=(judged(raw_answer()),),
    )
    assert msgspec.json.decode(msgspec.json.encode(report), type=ParityReport) == report


@pytest.mark.parametrize(
    ("right_px", "passes"),
    [
        pytest.param(94.0, True, id="where the lower end of the band puts it"),
        pytest.param(80.0, True, id="between both ends"),
        pytest.param(95.0, False, id="beyond the band"),
        pytest.param(68.0, False, id="short of the band"),
    ],
)
def test_an_edge_may_only_move_where_the_threshold_does_not_decide(right_px: float, passes: bool) -> None:
    given = raw_answer(box_xyxy=np.array([20, 10, right_px, 30], np.float32))
    verdict = judged(given, band_boxes=((20, 10, 94, 30), (20, 10, 70, 30)))
    assert verdict.passed is passes
    assert verdict.frames[0].box_plain_error_px == abs(right_px - 70)
    assert judged(given).passed is False


def _undecided(count: int, bits: int) -> NDArray[np.uint8]:
    """Pixels of row 50 that the two ends of the band set differently."""
    undecided_HW = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    undecided_HW[50, :count] = bits
    return undecided_HW


@pytest.mark.parametrize(
    ("undecided_HW", "passes"),
    [
        pytest.param(_undecided(2, 1), True, id="both pixels in the band"),
        pytest.param(_undecided(2, 3), True, id="of both parts"),
        pytest.param(_undecided(1, 1), True, id="the rest within the tolerance"),
        pytest.param(_undecided(2, 2), False, id="of the other part"),
        pytest.param(_undecided(0, 0), False, id="nothing in the band"),
    ],
)
def test_a_pixel_may_only_flip_where_the_threshold_does_not_decide(
    undecided_HW: NDArray[np.uint8], passes: bool
) -> None:
    verdict = judged(raw_answer(parts_HW=with_pixels(2, 1)), undecided_HW=undecided_HW)
    assert verdict.passed is passes
    assert verdict.frames[0].parts_differing_px == 2


@pytest.mark.parametrize(("of_band", "undecided"), [(-1.1, False), (-0.9, True), (0.9, True), (1.1, False)])
def test_only_logits_within_the_band_are_undecided(of_band: float, undecided: bool) -> None:
    logits = torch.full((1, 2, 16, 16), of_band * LOGIT_BAND + logit(0.3))
    to_parts = PartsInFrame(msgspec.structs.replace(SPEC, part_thresholds=(0.3, 0.3)))
    lower, upper = (end(logits).parts_HW for end in parts_at_band_ends(to_parts))
    assert bool((lower != upper).all()) is undecided
    assert bool((lower != upper).any()) is undecided


LOOSE = Tolerance(class_agreement_min=0.9, class_probs_max=1.0, parts_iou_min=0.5, box_px_max=1.0)


def judged_by(tolerance: Tolerance, *given: RawAnswer, kinds: tuple[Kind, ...] = ()) -> VariantParity:
    """The verdict on answers to frames of some kinds, real if none are given."""
    expected = [expected_case(index, kind) for index, kind in enumerate(kinds or ("real",) * len(given))]
    return verdict_on("int8", backend="test", sha256="", expected=expected, given=given, tolerance=tolerance)


def test_boxes_hold_on_the_share_of_frames_that_is_asked_for() -> None:
    far = raw_answer(box_xyxy=np.array([20, 10, 90, 30], np.float32))
    tolerance = msgspec.structs.replace(LOOSE, box_share_min=0.9)
    given = [raw_answer()] * 9
    assert judged_by(tolerance, *given, far).passed
    verdict = judged_by(tolerance, *given[:8], far, far)
    assert not verdict.passed
    assert verdict.failures == ("a box edge of 90% of the frames is off by 20.00 px (most 1) on frame-8",)


def test_masks_hold_in_the_mean_where_that_is_asked_for() -> None:
    tolerance = msgspec.structs.replace(LOOSE, parts_iou_mean_min=0.99)
    worse = raw_answer(parts_HW=with_pixels(50, 1))  # body IoU 1000 / 1050
    assert judged_by(tolerance, *[raw_answer()] * 9, worse).passed
    verdict = judged_by(tolerance, worse)
    assert verdict.failures == ("parts have a mean IoU of 0.9762 (least 0.99)",)
    assert verdict.parts_iou_mean == pytest.approx((1 + 1000 / 1050) / 2)


def test_adversarial_frames_only_have_to_be_sound_where_the_profile_says_so() -> None:
    other_class = raw_answer(class_probs_L=np.array([0.9, 0.05, 0.05], np.float32))
    tolerance = msgspec.structs.replace(LOOSE, adversarial=False)
    kinds: tuple[Kind, ...] = ("real", "adversarial")
    assert judged_by(tolerance, raw_answer(), other_class, kinds=kinds).passed
    assert not judged_by(LOOSE, raw_answer(), other_class, kinds=kinds).passed
    broken = raw_answer(class_probs_L=np.full(3, np.nan, np.float32))
    verdict = judged_by(tolerance, raw_answer(), broken, kinds=kinds)
    assert len(verdict.failures) == 1
    assert "the file puts out class probabilities [nan nan nan]" in verdict.failures[0]


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        pytest.param({"class_probs_L": np.array([7, -3, 9], np.float32)}, "that are no distribution", id="probs"),
        pytest.param({"box_xyxy": np.array([70, 10, 20, 30], np.float32)}, r"box \[70", id="box inside out"),
        pytest.param({"box_xyxy": np.array([0, 0, 101, 30], np.float32)}, r"box \[ *0", id="box outside"),
        pytest.param({"parts_HW": np.full((SIDE_PX, SIDE_PX), 252, np.uint8)}, "parts value 252", id="undefined bits"),
        pytest.param(
            {"health": np.array([10, 200, 999, 7, 0.9, 0], np.float32)}, r"panel_px 7, which its own", id="counts"
        ),
        pytest.param(
            {"health": np.array([60, 200, 1000, 0, 0.9, 0], np.float32)}, "frame_mean 60, which", id="frame's mean"
        ),
        pytest.param(
            {"health": np.array([10, 200, 1000, 0, 1.9, 0], np.float32)}, r"part_confidence 1\.9", id="confidence"
        ),
    ],
)
@pytest.mark.parametrize("kind", ["real", "adversarial"])
def test_an_answer_that_no_sound_graph_gives_fails_on_every_kind_of_frame(
    changes: dict[str, Any], seen: str, kind: Kind
) -> None:
    tolerance = msgspec.structs.replace(LOOSE, class_agreement_min=0, parts_iou_min=0, adversarial=False)
    verdict = judged_by(tolerance, raw_answer(), raw_answer(**changes), kinds=("real", kind))
    assert not verdict.passed
    assert re.search(f"the file puts out .*{seen}.* on frame-1", verdict.failures[0])


def test_no_box_may_be_too_far_off_where_the_profile_bounds_the_worst() -> None:
    far = raw_answer(box_xyxy=np.array([20, 10, 90, 30], np.float32))
    tolerance = msgspec.structs.replace(LOOSE, box_share_min=0.5, box_px_worst=10.0)
    verdict = judged_by(tolerance, raw_answer(), far)
    assert verdict.failures == ("a box edge is off by 20.00 px (most 10 on any frame)",)


def test_a_verdict_on_answers_that_are_no_numbers_survives_json() -> None:
    broken = raw_answer(class_probs_L=np.full(3, np.nan, np.float32), box_xyxy=np.full(4, np.inf, np.float32))
    verdict = judged(broken)
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=VariantParity) == verdict


def test_a_profile_that_needs_real_frames_says_so_without_any() -> None:
    with pytest.raises(UsageError, match="Give some with --data DIR"):
        judged_by(TOLERANCES["int8"], raw_answer(), kinds=("adversarial",))


@pytest.mark.parametrize(("drop_max", "passes"), [(0.003, False), (0.2, True), (None, True)])
def test_a_drop_of_the_score_is_judged_on_frames_with_labels(drop_max: float | None, passes: bool) -> None:
    left, top, right, bottom = raw_answer().box_xyxy.tolist()
    truth = Truth(class_name="b", parts_HW=raw_answer().parts_HW, box_xyxy=(left, top, right, bottom))
    frame = ParityFrame(name="f", kind="real", frame_HWC=np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8), truth=truth)
    expected = [dataclasses.replace(expected_case(0), frame=frame)]
    wrong_class = raw_answer(class_probs_L=np.array([0.9, 0.05, 0.05], np.float32))
    verdict = verdict_on(
        "int8",
        backend="test",
        sha256="",
        expected=expected,
        given=[wrong_class],
        tolerance=msgspec.structs.replace(LOOSE, class_agreement_min=0.0, score_drop_max=drop_max),
        scoring=Scoring(classes=("a", "b", "c"), cost=Cost(params=0, macs_fvcore=0, macs_torch=0)),
    )
    # The class weighs 0.2 of the accuracy, which weighs 0.7.
    assert verdict.score_drop == pytest.approx(0.14)
    assert verdict.passed is passes
