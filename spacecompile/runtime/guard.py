"""Judging an answer before it is used: impossible outputs are refused, doubtful ones carry flags.

A refused answer is an error, never a value: NaN or an impossible box means a broken graph, engine or memory, and
the next module in the chain must not steer by it. A flagged answer is a valid output about a frame that deserves
a second look.

Layout legend: H, W frame rows and columns; L classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spacecompile.contract import HEALTH_SIGNALS, PARTS, ModelSpec
from spacecompile.errors import AnswerError
from spacecompile.runtime.backend import RawAnswer

FLAGS = (
    "no_spacecraft",
    "class_and_mask_contradict",
    "low_confidence_class",
    "box_touches_edge",
    "dark_frame",
    "saturated_frame",
    "views_disagree",
)
"""Every flag that an answer can carry, in the order in which it carries them."""


@dataclass(frozen=True, kw_only=True)
class GuardRule:
    """Thresholds beyond which an answer is flagged.

    Attributes:
        class_prob_min: Top probability below which the class is `low_confidence_class`. At one half, no other class
            can be as likely.
        confident_class_prob: Top probability from which on an empty mask is `class_and_mask_contradict`.
        dark_frame_max: Largest value of a frame that is `dark_frame`: 8-bit sensor noise reaches that far.
        saturated_frame_mean: Mean above which a frame is `saturated_frame`: space is black, so most of such a frame is
            glare or a planet.
        view_dispute_share: Share of the mask's pixels; where the D4 views dispute more, the answer is
            `views_disagree`.
    """

    class_prob_min: float = 0.5
    confident_class_prob: float = 0.9
    dark_frame_max: float = 16.0
    saturated_frame_mean: float = 200.0
    view_dispute_share: float = 0.5


# Softmax in float32 sums to one within 1e-6; a mean over float16 views within 1e-2.
_PROB_SLACK = 1e-2
_BOX_SLACK_PX = 1e-2


def refuse_impossible(raw: RawAnswer, spec: ModelSpec) -> None:
    """Let through only what a sound graph can put out.

    Raises:
        AnswerError: If a value is NaN, infinite or out of its range.
    """
    seen = impossible_output(raw, spec.frame_size_px)
    if seen is not None:
        raise AnswerError(
            f"the graph put out {seen}. No sound graph does on any frame: run `spacecompile verify` on the bundle, and "
            "check the memory and the engine of this machine."
        )


def impossible_output(raw: RawAnswer, frame_size_px: tuple[int, int]) -> str | None:
    """What in an answer no sound graph puts out for any frame; None where all is possible."""
    height_px, width_px = frame_size_px
    values = np.concatenate((raw.class_probs_L, raw.box_xyxy, raw.health))
    if not np.isfinite(values).all():
        return f"class probabilities {raw.class_probs_L}, box {raw.box_xyxy}, health {raw.health}"
    if raw.class_probs_L.min() < -_PROB_SLACK or abs(float(raw.class_probs_L.sum()) - 1) > _PROB_SLACK:
        return f"class probabilities {raw.class_probs_L} that are no distribution"
    x_min, y_min, x_max, y_max = raw.box_xyxy.tolist()
    ordered = -_BOX_SLACK_PX <= x_min <= x_max <= width_px + _BOX_SLACK_PX
    if not (ordered and -_BOX_SLACK_PX <= y_min <= y_max <= height_px + _BOX_SLACK_PX):
        return f"box {raw.box_xyxy} in a frame of {height_px}x{width_px} pixels (height x width)"
    if raw.parts_HW.max() >= 1 << len(PARTS):
        return f"parts value {raw.parts_HW.max()}, of which only the lowest {len(PARTS)} bits mean anything"
    return None


def flags_of(raw: RawAnswer, spec: ModelSpec, rule: GuardRule) -> tuple[str, ...]:
    """The flags of a possible answer, in the order of `FLAGS`."""
    health = health_by_name(raw)
    class_prob = float(raw.class_probs_L.max())
    mask_px = health["body_px"] + health["panel_px"]
    height_px, width_px = spec.frame_size_px
    x_min, y_min, x_max, y_max = raw.box_xyxy.tolist()
    has_box = x_max > x_min and y_max > y_min
    disputed_px = health["view_disagreement"] * height_px * width_px
    raised = {
        "no_spacecraft": mask_px == 0,
        "class_and_mask_contradict": mask_px == 0 and class_prob >= rule.confident_class_prob,
        "low_confidence_class": class_prob < rule.class_prob_min,
        "box_touches_edge": has_box and (min(x_min, y_min) <= 0 or x_max >= width_px or y_max >= height_px),
        "dark_frame": health["frame_max"] <= rule.dark_frame_max,
        "saturated_frame": health["frame_mean"] > rule.saturated_frame_mean,
        "views_disagree": disputed_px > rule.view_dispute_share * mask_px,
    }
    return tuple(flag for flag in FLAGS if raised[flag])


def health_by_name(raw: RawAnswer) -> Mapping[str, float]:
    """The health signals by name."""
    return dict(zip(HEALTH_SIGNALS, raw.health.tolist(), strict=True))
