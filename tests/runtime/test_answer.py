from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from spacecompile.contract import ModelSpec
from spacecompile.rle import mask_from_rle
from spacecompile.runtime.answer import Answer, answer_from_raw
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.guard import GuardRule

SPEC = ModelSpec(classes=("Cheops", "Soho"), frame_size_px=(96, 128))


@pytest.fixture
def answer() -> Answer:
    """Body at rows 10..20, panel at rows 15..30, columns 40..60."""
    parts_HW = np.zeros((96, 128), np.uint8)
    parts_HW[10:20, 40:60] |= 1
    parts_HW[15:30, 40:60] |= 2
    raw = RawAnswer(
        class_probs_L=np.array([0.25, 0.75], np.float32),
        parts_HW=parts_HW,
        box_xyxy=np.array([40, 10, 60, 30], np.float32),
        health=np.array([12.5, 250, 200, 300, 0.9, 0], np.float32),
    )
    return answer_from_raw(raw, SPEC, GuardRule())


def test_the_class_is_the_likeliest_one(answer: Answer) -> None:
    assert (answer.class_name, answer.class_index, answer.class_prob) == ("Soho", 1, 0.75)


def test_parts_may_overlap_and_come_apart_as_booleans(answer: Answer) -> None:
    assert answer.body_HW.dtype == answer.panel_HW.dtype == np.bool_
    assert (answer.body_HW.sum(), answer.panel_HW.sum(), (answer.body_HW & answer.panel_HW).sum()) == (200, 300, 100)
    assert answer.body_HW is answer.body_HW


def test_an_answer_can_not_be_changed(answer: Answer) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.class_name = "Cheops"  # type: ignore[misc]


def test_as_json_it_holds_everything_but_the_masks(answer: Answer) -> None:
    content = json.loads(json.dumps(answer.to_dict()))
    assert content == {
        "class_name": "Soho",
        "class_index": 1,
        "class_probs": {"Cheops": 0.25, "Soho": 0.75},
        "box_xyxy": [40, 10, 60, 30],
        "parts_px": {"body": 200, "panel": 300},
        "flags": [],
        "health": {
            "frame_mean": 12.5,
            "frame_max": 250,
            "body_px": 200,
            "panel_px": 300,
            "part_confidence": 0.9,
            "view_disagreement": 0,
        },
    }


def test_as_json_it_holds_the_masks_when_asked_for(answer: Answer) -> None:
    rles = answer.to_dict(masks=True)["parts_rle"]
    np.testing.assert_array_equal(mask_from_rle(rles["body"]), answer.body_HW)
    np.testing.assert_array_equal(mask_from_rle(rles["panel"]), answer.panel_HW)
