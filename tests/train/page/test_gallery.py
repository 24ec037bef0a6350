"""The gallery keeps the worst frames and counts every answer; its pictures show both boxes."""

from __future__ import annotations

import base64
import dataclasses
import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from spacecompile.box_rule import BoxRule
from spacecompile.contract import ModelSpec
from spacecompile.runtime.overlay import BOX_RGB
from spacecompile.train.box.profile import BoxProfile
from spacecompile.train.evaluate import FrameAnswer
from spacecompile.train.frames.decode import ValidationFrame
from spacecompile.train.page.gallery import WORST_FRAMES, Gallery, picture, window_around

SPEC = ModelSpec(classes=("Red", "Green", "Blue"), input_size_px=(64, 64), frame_size_px=(128, 128))


def profile_of(low: int, high: int) -> NDArray[np.float32]:
    line = np.full(128, -9, np.float32)
    line[low:high] = 9
    return line


def answer_of(*, off_px: int, class_index: int = 0, truth: int = 0) -> FrameAnswer:
    """A body of 40x40 px at (20, 30), answered `off_px` too far to the right."""
    true_parts_HW, parts_HW = np.zeros((128, 128), np.uint8), np.zeros((128, 128), np.uint8)
    true_parts_HW[30:70, 20:60] = 1
    parts_HW[30:70, 20 + off_px : 60 + off_px] = 1
    frame = ValidationFrame(
        input_CHW=torch.zeros(3, 64, 64), parts_HW=true_parts_HW, class_index=truth, box_xyxy=(20, 30, 60, 70)
    )
    profile = BoxProfile(rows_H=profile_of(30, 70), columns_W=profile_of(20 + off_px, 60 + off_px))
    return FrameAnswer(truth=frame, class_index=class_index, parts_HW=parts_HW, profile=profile)


def test_the_worst_frames_are_kept_worst_first_and_all_answers_pass() -> None:
    gallery = Gallery(spec=SPEC, rule=BoxRule())
    offsets = [3, 30, 0, 12, 25, 7, 18, 1, 40, 5, 10, 21]
    found = [answer_of(off_px=off_px) for off_px in offsets]
    assert list(gallery.passing(found)) == found
    edges = [judged.box_xyxy[0] - 20 for judged in gallery.worst]
    assert edges == sorted(offsets, reverse=True)[:WORST_FRAMES]
    assert gallery.worst[0].box_iou == 0
    assert gallery.worst[0].parts_ious == (0.0, 1.0)


def test_a_wrong_class_is_worse_than_a_right_one_and_is_counted_in_its_row() -> None:
    gallery = Gallery(spec=SPEC, rule=BoxRule())
    list(gallery.passing([answer_of(off_px=0, truth=2, class_index=2), answer_of(off_px=0, truth=2, class_index=1)]))
    assert [(judged.truth, judged.answer) for judged in gallery.worst] == [("Blue", "Green"), ("Blue", "Blue")]
    assert gallery.confusion_LL.tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1]]


def test_a_frame_without_labelled_parts_is_ranked_by_class_and_box() -> None:
    gallery = Gallery(spec=SPEC, rule=BoxRule())
    labelled = answer_of(off_px=0)
    unlabelled = dataclasses.replace(labelled, truth=dataclasses.replace(labelled.truth, has_parts=False))
    list(gallery.passing([unlabelled]))
    assert (gallery.worst[0].parts_ious, gallery.worst[0].score) == ((), 1.0)


def greenish(jpeg_base64: str) -> tuple[int, int]:
    """First and last column in which a picture has the box's colour, in thousandths of its width."""
    picture_HWC = np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg_base64))), np.int16)
    is_box_HW = (np.abs(picture_HWC - np.array(BOX_RGB)) < 90).all(2)
    columns = np.flatnonzero(is_box_HW.any(0))
    return round(1000 * columns[0] / picture_HWC.shape[1]), round(1000 * columns[-1] / picture_HWC.shape[1])


def test_both_pictures_show_the_same_window_each_with_its_own_box() -> None:
    gallery = Gallery(spec=SPEC, rule=BoxRule())
    list(gallery.passing([answer_of(off_px=20)]))
    (judged,) = gallery.worst
    # Both boxes reach from 20 to 80 px; the window of 90 px around them from 5 to 95.
    assert greenish(picture(judged, of_truth=True)) == pytest.approx((1000 * 15 / 90, 1000 * 55 / 90), abs=15)
    assert greenish(picture(judged, of_truth=False)) == pytest.approx((1000 * 35 / 90, 1000 * 75 / 90), abs=15)


@pytest.mark.parametrize(
    ("boxes", "window"),
    [
        pytest.param([[40, 40, 60, 60]], [35, 35, 65, 65], id="in the middle"),
        pytest.param([[0, 0, 40, 20]], [0, 0, 60, 60], id="in a corner"),
        pytest.param([[50, 50, 52, 52]], [43.5, 43.5, 58.5, 58.5], id="never closer than this"),
        pytest.param([[0, 0, 0, 0], [40, 40, 60, 60]], [35, 35, 65, 65], id="an empty one does not count"),
        pytest.param([[0, 0, 0, 0]], [0, 0, 100, 100], id="no box"),
        pytest.param([[0, 0, 90, 90]], [0, 0, 100, 100], id="as large as the frame"),
    ],
)
def test_a_window_holds_the_boxes_and_stays_in_the_frame(boxes: list[list[float]], window: list[float]) -> None:
    found = window_around([np.asarray(box, np.float64) for box in boxes], (100, 100))
    assert found.tolist() == pytest.approx(window)
