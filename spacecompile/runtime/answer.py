"""What a user gets for one frame.

Layout legend: H, W frame rows and columns; L classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import PARTS, ModelSpec
from spacecompile.rle import rle_from_mask
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.guard import GuardRule, flags_of, health_by_name, refuse_impossible


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """Class, parts and box of the spacecraft in one frame. It owns its arrays.

    Attributes:
        class_name: Name of the likeliest class.
        class_index: Index of the likeliest class in `classes`.
        class_probs: float32 probabilities [L] in the order of `classes`.
        classes: Names of all classes.
        box_xyxy: float32 [4], half-open, in frame pixels; all zero without a box.
        parts_HW: uint8 mask, bit 0 body, bit 1 panel.
        health: Health signals by name; see `contract.HEALTH_SIGNALS`.
        flags: Reasons to doubt this answer, of `guard.FLAGS`; empty for a good one.
    """

    class_name: str
    class_index: int
    class_probs: NDArray[np.float32]
    classes: tuple[str, ...] = field(repr=False)
    box_xyxy: NDArray[np.float32]
    parts_HW: NDArray[np.uint8] = field(repr=False)
    health: Mapping[str, float]
    flags: tuple[str, ...]

    @property
    def class_prob(self) -> float:
        """Probability of the likeliest class."""
        return float(self.class_probs[self.class_index])

    @cached_property
    def body_HW(self) -> NDArray[np.bool_]:
        """Pixels of the body, made on first use."""
        return (self.parts_HW & 1).view(np.bool_)

    @cached_property
    def panel_HW(self) -> NDArray[np.bool_]:
        """Pixels of the solar panels, made on first use."""
        return (self.parts_HW >> 1 & 1).view(np.bool_)

    def to_dict(self, *, masks: bool = False) -> dict[str, Any]:
        """Plain values for JSON: probabilities to 6 digits, pixels to 3.

        Args:
            masks: Whether each part's mask is added, as COCO run lengths.
        """
        content: dict[str, Any] = {
            "class_name": self.class_name,
            "class_index": self.class_index,
            "class_probs": {
                name: round(prob, 6) for name, prob in zip(self.classes, self.class_probs.tolist(), strict=True)
            },
            "box_xyxy": [round(edge_px, 3) for edge_px in self.box_xyxy.tolist()],
            "parts_px": {part: int(self.health[f"{part}_px"]) for part in PARTS},
            "flags": list(self.flags),
            "health": {name: round(value, 6) for name, value in self.health.items()},
        }
        if masks:
            content["parts_rle"] = {
                part: rle_from_mask(mask_HW) for part, mask_HW in zip(PARTS, (self.body_HW, self.panel_HW), strict=True)
            }
        return content


def answer_from_raw(raw: RawAnswer, spec: ModelSpec, rule: GuardRule) -> Answer:
    """Check the outputs of one run and name them.

    Raises:
        AnswerError: If no sound graph can put them out.
    """
    refuse_impossible(raw, spec)
    class_index = int(raw.class_probs_L.argmax())
    return Answer(
        class_name=spec.classes[class_index],
        class_index=class_index,
        class_probs=raw.class_probs_L,
        classes=spec.classes,
        box_xyxy=raw.box_xyxy,
        parts_HW=raw.parts_HW,
        health=health_by_name(raw),
        flags=flags_of(raw, spec, rule),
    )
