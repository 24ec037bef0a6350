from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spacecompile.contract import HEALTH_SIGNALS, ModelSpec
from spacecompile.errors import AnswerError
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.guard import FLAGS, GuardRule, flags_of, refuse_impossible

SPEC = ModelSpec(classes=("a", "b", "c"), frame_size_px=(96, 128))


def raw(
    *,
    probs: tuple[float, ...] = (0.8, 0.1, 0.1),
    box: tuple[float, ...] = (10, 20, 30, 40),
    part: int = 1,
    **health: float,
) -> RawAnswer:
    """A good answer, but for what a test changes."""
    signals = {
        "frame_mean": 20.0,
        "frame_max": 250.0,
        "body_px": 300.0,
        "panel_px": 100.0,
        "part_confidence": 0.99,
        "view_disagreement": 0.0,
    } | health
    return RawAnswer(
        class_probs_L=np.array(probs, np.float32),
        parts_HW=np.full((96, 128), part, np.uint8),
        box_xyxy=np.array(box, np.float32),
        health=np.array([signals[name] for name in HEALTH_SIGNALS], np.float32),
    )


def test_a_good_answer_passes_without_a_flag() -> None:
    refuse_impossible(raw(), SPEC)
    assert flags_of(raw(), SPEC, GuardRule()) == ()


@pytest.mark.parametrize(
    "answer",
    [
        raw(probs=(np.nan, 0.5, 0.5)),
        raw(probs=(np.inf, 0, 0)),
        raw(box=(np.nan, 0, 1, 1)),
        raw(part_confidence=np.nan),
        raw(probs=(0.3, 0.3, 0.3)),
        raw(probs=(1.2, -0.1, -0.1)),
        raw(box=(30, 20, 10, 40)),
        raw(box=(10, 40, 30, 20)),
        raw(box=(-1, 20, 30, 40)),
        raw(box=(10, 20, 129, 40)),
        raw(box=(10, 20, 30, 97)),
        raw(part=4),
    ],
    ids=[
        "probability NaN",
        "probability infinite",
        "box NaN",
        "health NaN",
        "probabilities that do not sum to one",
        "negative probability",
        "box with swapped columns",
        "box with swapped rows",
        "box left of the frame",
        "box right of the frame",
        "box below the frame",
        "unknown part bit",
    ],
)
def test_an_impossible_answer_is_refused(answer: RawAnswer) -> None:
    with pytest.raises(AnswerError, match="No sound graph does") as caught:
        refuse_impossible(answer, SPEC)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    ("answer", "flags"),
    [
        (raw(body_px=0, panel_px=0, box=(0, 0, 0, 0)), ("no_spacecraft",)),
        (
            raw(body_px=0, panel_px=0, box=(0, 0, 0, 0), probs=(0.95, 0.05, 0)),
            ("no_spacecraft", "class_and_mask_contradict"),
        ),
        (raw(probs=(0.4, 0.3, 0.3)), ("low_confidence_class",)),
        (raw(box=(0, 20, 30, 40)), ("box_touches_edge",)),
        (raw(box=(10, 0, 30, 40)), ("box_touches_edge",)),
        (raw(box=(10, 20, 128, 40)), ("box_touches_edge",)),
        (raw(box=(10, 20, 30, 96)), ("box_touches_edge",)),
        (raw(frame_max=16), ("dark_frame",)),
        (raw(frame_mean=220), ("saturated_frame",)),
        (raw(view_disagreement=0.02), ("views_disagree",)),
        (raw(body_px=0, panel_px=0, box=(0, 0, 0, 0), view_disagreement=0.001), ("no_spacecraft", "views_disagree")),
    ],
    ids=[
        "empty mask",
        "sure of the class without a mask",
        "unsure of the class",
        "left edge",
        "top edge",
        "right edge",
        "bottom edge",
        "dark",
        "bright",
        "views dispute more than half of the mask",
        "views dispute pixels of an empty mask",
    ],
)
def test_a_doubtful_answer_is_flagged(answer: RawAnswer, flags: tuple[str, ...]) -> None:
    refuse_impossible(answer, SPEC)
    assert flags_of(answer, SPEC, GuardRule()) == flags


def test_views_may_dispute_the_outline() -> None:
    assert flags_of(raw(view_disagreement=0.015), SPEC, GuardRule()) == ()


def test_the_limits_are_the_users_to_set() -> None:
    strict = replace(GuardRule(), class_prob_min=0.9)
    assert flags_of(raw(), SPEC, strict) == ("low_confidence_class",)


def test_flags_come_in_the_documented_order() -> None:
    everything = raw(
        probs=(0.34, 0.33, 0.33),
        box=(0, 0, 128, 96),
        frame_max=0,
        frame_mean=255,
        view_disagreement=1,
        body_px=0,
        panel_px=0,
    )
    flags = flags_of(everything, SPEC, replace(GuardRule(), confident_class_prob=0.3))
    assert flags == FLAGS
