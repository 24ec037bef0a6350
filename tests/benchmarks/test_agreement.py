from __future__ import annotations

import numpy as np
import pytest

from spacecompile.benchmarks.agreement import AgreementTolerance, Answered, compare, parts_near, tolerance_for
from spacecompile.benchmarks.peers.table import answered_from_peer
from spacecompile.contract import ModelSpec


def answer(*, top: int = 0, left: int = 20, box: tuple[float, ...] = (20, 20, 60, 60)) -> Answered:
    probs_L = np.full(3, 0.1, np.float32)
    probs_L[top] = 0.8
    parts_HW = np.zeros((100, 100), np.uint8)
    parts_HW[20:60, left : left + 40] = 1
    return Answered(class_probs_L=probs_L, parts_HW=parts_HW, box_xyxy=np.asarray(box, np.float32))


def test_equal_answers_agree_fully() -> None:
    agreement = compare([answer()] * 3, [answer()] * 3)
    assert agreement.same
    assert (agreement.frames, agreement.class_agreement, agreement.class_probs_max) == (3, 1.0, 0.0)
    assert (agreement.parts_iou_mean, agreement.parts_iou_min) == (1.0, 1.0)
    assert (agreement.box_px_median, agreement.box_px_max) == (0.0, 0.0)


def test_differences_are_measured_per_output() -> None:
    other = answer(top=1, left=30, box=(30, 20, 70, 60))
    agreement = compare([answer(), other], [answer(), answer()])
    assert agreement.class_agreement == 0.5
    assert agreement.class_probs_max == pytest.approx(0.7)
    assert agreement.parts_iou_min == pytest.approx(30 / 50)  # ten of forty columns moved
    assert agreement.parts_iou_mean == pytest.approx((1 + 1 + 1 + 0.6) / 4)  # two frames, two parts
    assert agreement.parts_near_mean == pytest.approx((1 + 1 + 1 + 31 / 40) / 4)  # one more column is within a pixel
    assert (agreement.box_px_median, agreement.box_px_max) == (5.0, 10.0)


@pytest.mark.parametrize(
    ("tolerance", "same"),
    [
        (AgreementTolerance(class_agreement_min=0.5, near_px=10, parts_near_mean_min=1.0), True),
        (AgreementTolerance(class_agreement_min=0.6, near_px=10, parts_near_mean_min=1.0), False),
        (AgreementTolerance(class_agreement_min=0.5, near_px=9, parts_near_mean_min=1.0), False),
        (AgreementTolerance(class_agreement_min=0.5, near_px=5, parts_near_mean_min=0.9), True),
        (AgreementTolerance(class_agreement_min=0.5, near_px=4, parts_near_mean_min=0.5), False),
    ],
    ids=["within", "class", "parts", "parts mostly", "box"],
)
def test_each_output_alone_can_make_it_another_task(tolerance: AgreementTolerance, same: bool) -> None:
    other = answer(top=1, left=30, box=(30, 20, 70, 60))
    assert compare([answer(), other], [answer(), answer()], tolerance).same is same


@pytest.mark.parametrize(
    ("moved_px", "near_px", "share"), [(0, 0, 1.0), (3, 3, 1.0), (3, 2, 39 / 40), (3, 0, 37 / 40), (60, 3, 0.0)]
)
def test_edges_may_move_by_the_given_distance(moved_px: int, near_px: int, share: float) -> None:
    first, second = (np.zeros((60, 120), np.uint8) for _ in range(2))
    first[10:50, 10:50] = 2
    second[10:50, 10 + moved_px : 50 + moved_px] = 2
    assert parts_near(first, second, near_px) == pytest.approx((1.0, share))


def test_a_part_that_only_one_answer_has_is_nowhere_near() -> None:
    empty, full = np.zeros((8, 8), np.uint8), np.full((8, 8), 1, np.uint8)
    assert parts_near(empty, full, 3) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("input_px", "frame_px", "near_px"),
    [((512, 512), (1024, 1024), 4), ((64, 64), (200, 168), 7), ((512, 512), (512, 512), 2)],
)
def test_the_tolerance_is_half_a_decoder_pixel(
    input_px: tuple[int, int], frame_px: tuple[int, int], near_px: int
) -> None:
    assert tolerance_for(ModelSpec(input_size_px=input_px, frame_size_px=frame_px)).near_px == near_px


def test_boxes_are_compared_without_wrapping() -> None:
    agreement = compare([answer(box=(0, 0, 0, 0))], [answer(box=(5, 5, 90, 90))])
    assert agreement.box_px_max == 90


def test_a_peer_s_masks_are_packed_into_bits() -> None:
    parts_KHW = np.zeros((2, 4, 4), np.bool_)
    parts_KHW[0, 0] = True
    parts_KHW[1, :2] = True
    packed = answered_from_peer((np.ones(3, np.float32), parts_KHW, np.zeros(4, np.float32)))
    assert packed.parts_HW.dtype == np.uint8
    assert packed.parts_HW[:, 0].tolist() == [3, 2, 0, 0]
