from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from spacecompile.contract import ModelSpec
from spacecompile.runtime.answer import Answer, answer_from_raw
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.guard import GuardRule
from spacecompile.runtime.overlay import BODY_RGB, BOX_RGB, PANEL_RGB, draw_overlay

SIZE = (256, 320)


def answer_with(parts_HW: NDArray[np.uint8], box_xyxy: tuple[float, float, float, float]) -> Answer:
    health = np.array([9, 99, (parts_HW & 1).sum(), (parts_HW >> 1).sum(), 1, 0], np.float32)
    raw = RawAnswer(
        class_probs_L=np.array([0.75, 0.25], np.float32),
        parts_HW=parts_HW,
        box_xyxy=np.array(box_xyxy, np.float32),
        health=health,
    )
    return answer_from_raw(raw, ModelSpec(classes=("Cheops", "Soho"), frame_size_px=SIZE), GuardRule())


@pytest.fixture
def frame() -> NDArray[np.uint8]:
    return np.full((*SIZE, 3), 40, np.uint8)


@pytest.fixture
def parts() -> NDArray[np.uint8]:
    parts_HW = np.zeros(SIZE, np.uint8)
    parts_HW[120:180, 100:150] = 1
    parts_HW[130:160, 150:250] = 2
    return parts_HW


def test_parts_are_tinted_and_outlined_and_the_rest_is_left_alone(
    frame: NDArray[np.uint8], parts: NDArray[np.uint8]
) -> None:
    drawn = np.asarray(draw_overlay(frame, answer_with(parts, (90, 110, 260, 190))))
    body, panel = drawn[150, 120].astype(int), drawn[145, 200].astype(int)
    assert body[0] > 100 and body[0] > 1.5 * body[2]
    assert panel[2] > 100 and panel[2] > 1.5 * panel[0]
    assert tuple(drawn[120, 120]) == BODY_RGB
    assert tuple(drawn[130, 200]) == PANEL_RGB
    np.testing.assert_array_equal(drawn[200:], frame[200:])
    assert (frame == 40).all()


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ((90, 110, 260, 190), ((90, 110), (259, 189))),
        ((89.7, 109.6, 260.4, 190.4), ((89, 109), (260, 190))),
        ((0, 0, 320, 256), ((0, 0), (319, 255))),
        ((100, 150, 102.4, 152.4), ((100, 150), (102, 152))),
    ],
    ids=["whole pixels", "fractions", "the whole frame", "three pixels"],
)
def test_the_box_is_drawn_around_the_pixels_that_it_holds(
    frame: NDArray[np.uint8],
    parts: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    corners: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    drawn = np.asarray(draw_overlay(frame, answer_with(parts, box)))
    green = (drawn == BOX_RGB).all(axis=2)
    (left, top), (right, bottom) = corners
    # The label may cover the upper edge.
    assert green[bottom, left : right + 1].all()
    assert not green[bottom + 1 :, left : right + 1].any()
    assert not green[top : bottom + 1, right + 1 :].any()


@pytest.mark.parametrize(
    "box",
    [(90, 110, 260, 190), (90, 0, 260, 100), (0, 0, 320, 256), (300, 240, 320, 256), (0, 0, 0, 0)],
    ids=["room above", "room below only", "no room", "in the corner", "no box"],
)
def test_the_label_is_inside_the_frame_wherever_the_box_is(
    frame: NDArray[np.uint8], box: tuple[float, float, float, float]
) -> None:
    drawn = np.asarray(draw_overlay(frame, answer_with(np.zeros(SIZE, np.uint8), box)))
    plate = np.argwhere((drawn == 16).all(axis=2))
    height_px, width_px = np.ptp(plate, axis=0) + 1
    assert height_px >= 20 and width_px >= 60
    assert plate.shape[0] > 0.5 * height_px * width_px


def test_every_flag_adds_a_line_to_the_label(frame: NDArray[np.uint8], parts: NDArray[np.uint8]) -> None:
    box = (90, 110, 260, 190)

    def plate_height_px(answer: Answer) -> int:
        drawn = np.asarray(draw_overlay(frame, answer))
        return int(np.ptp(np.argwhere((drawn == 16).all(axis=2))[:, 0])) + 1

    good, doubtful = answer_with(parts, box), answer_with(np.zeros(SIZE, np.uint8), box)
    assert (good.flags, doubtful.flags) == ((), ("no_spacecraft",))
    assert plate_height_px(doubtful) > plate_height_px(good)
