"""The scores: published rows, hand-made cases, and properties against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from spacecompile.contract import Cost
from spacecompile.errors import FrameError
from spacecompile.metrics import (
    IOU_THRESHOLDS,
    ScoreMeter,
    accuracy_score,
    box_iou,
    detection_score,
    final_score,
    flops_score,
    params_score,
    parts_iou,
    with_cost,
)

REFERENCE_COST = Cost(params=3_454_060, macs_fvcore=4_482_700_000, macs_torch=4_411_600_000)


@pytest.mark.parametrize(
    ("s_cls", "s_det", "s_seg", "s_acc", "s_final"),
    [
        pytest.param(1.000, 0.919, 0.868, 0.915, 0.916, id="reference network"),
        pytest.param(1.000, 0.916, 0.880, 0.918, 0.919, id="reference network with D4 views"),
    ],
)
def test_published_rows_are_reproduced(s_cls: float, s_det: float, s_seg: float, s_acc: float, s_final: float) -> None:
    accuracy = accuracy_score(s_cls=s_cls, s_det=s_det, s_seg=s_seg)
    final = final_score(s_acc=accuracy, s_flops=flops_score(REFERENCE_COST), s_params=params_score(REFERENCE_COST))
    assert round(accuracy, 3) == s_acc
    assert round(final, 3) == s_final


def test_the_second_places_row_is_reproduced() -> None:
    # Its accuracy is published (S_cls 1.0, S_det 0.9788, S_seg 0.8917), its cost is not: S_final 0.9276 leaves
    # GMAC/100 + Mparams/30 = 0.241, for example 10 GMAC and 4.23 M parameters.
    cost = Cost(params=4_230_000, macs_fvcore=10_000_000_000, macs_torch=0)
    accuracy = accuracy_score(s_cls=1.0, s_det=0.9788, s_seg=0.8917)
    assert round(accuracy, 4) == 0.9482
    assert round(final_score(s_acc=accuracy, s_flops=flops_score(cost), s_params=params_score(cost)), 4) == 0.9276


def boxes_around(rng: np.random.Generator, num_boxes: int) -> tuple[np.ndarray, np.ndarray]:
    """True boxes and answers from perfect to far off, xyxy."""
    low_N2, extent_N2 = rng.uniform(0, 500, (num_boxes, 2)), rng.uniform(20, 400, (num_boxes, 2))
    true_N4 = np.concatenate([low_N2, low_N2 + extent_N2], axis=1)
    shift_N4 = rng.normal(0, 1, (num_boxes, 4)) * rng.uniform(0, 0.25, (num_boxes, 1)) * np.tile(extent_N2, 2)
    answer_N4 = true_N4 + shift_N4
    answer_N4[:, 2:] = np.maximum(answer_N4[:, 2:], answer_N4[:, :2] + 1)
    return true_N4, answer_N4


def coco_recall(true_N4: np.ndarray, answer_N4: np.ndarray) -> float:
    """Average recall at one box per image (AR@1) of pycocotools: with one box each it is the share that passes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box: np.ndarray) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    truth = COCO()
    truth.dataset = {
        "images": [{"id": index} for index in range(len(true_N4))],
        "categories": [{"id": 1}],
        "annotations": [
            {
                "id": index + 1,
                "image_id": index,
                "category_id": 1,
                "bbox": xywh(box),
                "area": float(np.prod(xywh(box)[2:])),
                "iscrowd": 0,
            }
            for index, box in enumerate(true_N4)
        ],
    }
    truth.createIndex()
    answers = truth.loadRes(
        [{"image_id": index, "category_id": 1, "bbox": xywh(box), "score": 0.5} for index, box in enumerate(answer_N4)]
    )
    judge = COCOeval(truth, answers, "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return float(judge.stats[6])


@pytest.mark.parametrize("seed", range(4))
def test_detection_score_is_that_of_pycocotools_on_the_same_boxes(seed: int) -> None:
    true_N4, answer_N4 = boxes_around(np.random.default_rng(seed), 80)
    ious = [box_iou(answer, truth) for answer, truth in zip(answer_N4, true_N4, strict=True)]
    ours = detection_score(ious)
    assert ours == pytest.approx(coco_recall(true_N4, answer_N4), abs=1e-12)
    assert 0.2 < ours < 0.95  # neither all nor none pass


def test_each_pass_is_charged_only_when_asked_for() -> None:
    meter = ScoreMeter()
    body_HW = np.ones((4, 4), np.uint8)
    meter.add(0, 0, body_HW, body_HW, (0, 0, 4, 4), (0, 0, 4, 4))
    scores = meter.scores(REFERENCE_COST)
    charged = with_cost(scores, REFERENCE_COST, passes=8)
    assert scores.s_flops == pytest.approx(1 - 0.044827)
    assert charged.s_flops == pytest.approx(1 - 8 * 0.044827)
    assert charged.s_params == scores.s_params
    assert charged.s_final == pytest.approx(scores.s_final - 0.15 * 7 * 0.044827)
    assert with_cost(charged, REFERENCE_COST) == scores


@pytest.mark.parametrize(
    ("box", "true_box", "iou"),
    [
        pytest.param((0, 0, 10, 10), (0, 0, 10, 10), 1.0, id="same"),
        pytest.param((0, 0, 10, 10), (0, 0, 10, 5), 0.5, id="half"),
        pytest.param((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3, id="shifted by half"),
        pytest.param((0, 0, 10, 10), (10, 0, 20, 10), 0.0, id="touching boxes share nothing, edges are half-open"),
        pytest.param((0, 0, 0, 0), (0, 0, 10, 10), 0.0, id="no answer"),
        pytest.param((0, 0, 0, 0), (0, 0, 0, 0), 0.0, id="both empty"),
        pytest.param((10, 10, 0, 0), (0, 0, 10, 10), 0.0, id="corners swapped"),
        pytest.param((float("nan"), 0, 10, 10), (0, 0, 10, 10), 0.0, id="not a number"),
        pytest.param((0.25, 0, 10.25, 10), (0.25, 0, 10.25, 10), 1.0, id="fractional"),
    ],
)
def test_box_iou(box: tuple[float, ...], true_box: tuple[float, ...], iou: float) -> None:
    assert box_iou(box, true_box) == pytest.approx(iou)


EDGES = st.integers(0, 20)
BOXES = st.tuples(EDGES, EDGES, EDGES, EDGES)


@given(BOXES, BOXES)
def test_box_iou_is_that_of_the_boxes_pixels(box: tuple[int, ...], true_box: tuple[int, ...]) -> None:
    def pixels_HW(xyxy: tuple[int, ...]) -> np.ndarray:
        pixels = np.zeros((20, 20), bool)
        pixels[xyxy[1] : xyxy[3], xyxy[0] : xyxy[2]] = True
        return pixels

    either = (pixels_HW(box) | pixels_HW(true_box)).sum()
    common = (pixels_HW(box) & pixels_HW(true_box)).sum()
    assert box_iou(box, true_box) == pytest.approx(common / either if either else 0.0)
    assert box_iou(box, true_box) == box_iou(true_box, box)


def test_thresholds_are_those_of_coco() -> None:
    assert pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]) == list(IOU_THRESHOLDS)


@pytest.mark.parametrize(
    ("ious", "score"),
    [
        pytest.param([1.0], 1.0, id="perfect"),
        pytest.param([0.49], 0.0, id="below the first threshold"),
        pytest.param([0.5], 0.1, id="on the first threshold counts"),
        pytest.param([7 / 10], 0.5, id="on a threshold counts in spite of rounding"),
        pytest.param([1.0, 0.0], 0.5, id="mean over frames"),
        pytest.param([0.96, 0.76, 0.52], (10 + 6 + 1) / 30, id="mixed"),
    ],
)
def test_detection_score(ious: list[float], score: float) -> None:
    assert detection_score(ious) == pytest.approx(score)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_detection_score_is_the_mean_over_thresholds_of_the_share_that_passes(ious: list[float]) -> None:
    shares = [sum(iou >= threshold for iou in ious) / len(ious) for threshold in IOU_THRESHOLDS]
    assert detection_score(ious) == pytest.approx(sum(shares) / len(shares))


@given(*[st_np.arrays(np.uint8, (4, 5), elements=st.integers(0, 3)) for _ in range(2)])
def test_parts_iou_agrees_with_sets_of_pixels(parts_HW: np.ndarray, true_parts_HW: np.ndarray) -> None:
    for part, iou in enumerate(parts_iou(parts_HW, true_parts_HW)):
        answer, truth = ({tuple(at) for at in np.argwhere(mask >> part & 1)} for mask in (parts_HW, true_parts_HW))
        assert iou == pytest.approx(len(answer & truth) / len(answer | truth) if answer | truth else 1.0)


def test_a_part_that_is_absent_and_not_answered_counts_as_right() -> None:
    body_only_HW = np.ones((4, 4), np.uint8)
    assert parts_iou(body_only_HW, body_only_HW) == (1.0, 1.0)
    assert parts_iou(body_only_HW, body_only_HW * 3) == (1.0, 0.0)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(np.zeros((4, 5), np.uint8), id="other size"),
        pytest.param(np.zeros((4, 4), bool), id="not bits"),
        pytest.param(np.zeros((4, 4, 1), np.uint8), id="three axes"),
    ],
)
def test_masks_that_do_not_fit_are_refused(other: np.ndarray) -> None:
    with pytest.raises(FrameError, match="compare uint8 masks of one size"):
        parts_iou(np.zeros((4, 4), np.uint8), other)


def test_boxes_with_the_wrong_number_of_edges_are_refused() -> None:
    with pytest.raises(FrameError, match="a box is"):
        box_iou((0, 0, 1), (0, 0, 1, 1))


def test_meter_averages_over_frames_and_breaks_down_by_true_class() -> None:
    meter = ScoreMeter(classes=("a", "b", "c"))
    body_HW, empty_HW = np.ones((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    meter.add(0, 0, body_HW, body_HW, (0, 0, 4, 4), (0, 0, 4, 4))
    meter.add(0, 2, empty_HW, body_HW, (0, 0, 0, 0), (0, 0, 4, 4))
    scores = meter.scores(REFERENCE_COST)
    assert (scores.frames, scores.s_cls, scores.s_det) == (2, 0.5, 0.5)
    assert scores.s_seg == pytest.approx((1 + 1 + 0 + 1) / 4)
    assert scores.s_acc == pytest.approx(0.4 * 0.75 + 0.4 * 0.5 + 0.2 * 0.5)
    assert scores.s_final == pytest.approx(0.7 * scores.s_acc + 0.15 * scores.s_flops + 0.15 * scores.s_params)
    assert scores.per_part == {"body": 0.5, "panel": 1.0}
    assert list(scores.per_class) == ["a", "c"]
    assert (scores.per_class["c"].s_cls, scores.per_class["c"].s_seg) == (0.0, 0.5)


def test_a_refused_frame_leaves_the_meter_as_it_was() -> None:
    meter = ScoreMeter()
    body_HW = np.ones((4, 4), np.uint8)
    with pytest.raises(FrameError):
        meter.add(0, 0, body_HW, body_HW, (0, 0, 4), (0, 0, 4, 4))
    assert meter.frames == 0


def test_scores_of_nothing_are_refused() -> None:
    with pytest.raises(FrameError, match="no frame was scored"):
        ScoreMeter().scores(REFERENCE_COST)
