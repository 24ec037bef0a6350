from __future__ import annotations

import numpy as np
import pytest

from spacecompile.benchmarks.answers import AgreementTolerance, Answered, compare
from spacecompile.benchmarks.peer_table import answered_from_peer


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
    assert (agreement.box_px_median, agreement.box_px_max) == (5.0, 10.0)


@pytest.mark.parametrize(
    ("tolerance", "same"),
    [
        (AgreementTolerance(class_agreement_min=0.5, parts_iou_mean_min=0.9, box_share_median_max=0.05), True),
        (AgreementTolerance(class_agreement_min=0.6, parts_iou_mean_min=0.9, box_share_median_max=0.05), False),
        (AgreementTolerance(class_agreement_min=0.5, parts_iou_mean_min=0.95, box_share_median_max=0.05), False),
        (AgreementTolerance(class_agreement_min=0.5, parts_iou_mean_min=0.9, box_share_median_max=0.04), False),
    ],
    ids=["within", "class", "parts", "box"],
)
def test_each_output_alone_can_make_it_another_task(tolerance: AgreementTolerance, same: bool) -> None:
    other = answer(top=1, left=30, box=(30, 20, 70, 60))
    assert compare([answer(), other], [answer(), answer()], tolerance).same is same


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
