"""An answer whose parts mask stays on the GPU.

Layout legend: H, W frame rows and columns; L classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import ModelSpec
from spacecompile.runtime.answer import Answer, answer_from_raw
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.cuda.backend import DeviceRawAnswer, DeviceView
from spacecompile.runtime.guard import GuardRule


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceAnswer:
    """As `Answer`, with `parts` on the GPU until `parts.release()`; everything else is the caller's own.

    Attributes:
        class_name, class_index, class_probs, classes, box_xyxy, health, flags: As in `Answer`.
        parts: uint8 [H, W] on the GPU, bit 0 body, bit 1 panel. Not looked at: that its values are possible was not
            checked, as it is for an `Answer`.
    """

    class_name: str
    class_index: int
    class_probs: NDArray[np.float32]
    classes: tuple[str, ...] = field(repr=False)
    box_xyxy: NDArray[np.float32]
    parts: DeviceView = field(repr=False)
    health: Mapping[str, float]
    flags: tuple[str, ...]


def device_answer_from_raw(raw: DeviceRawAnswer, spec: ModelSpec, rule: GuardRule) -> DeviceAnswer:
    """Check the outputs of one run that came to the host, and name them.

    Raises:
        AnswerError: If no sound graph can put them out.
    """
    answer: Answer = answer_from_raw(
        RawAnswer(
            class_probs_L=raw.class_probs_L,
            parts_HW=np.zeros((1, 1), np.uint8),
            box_xyxy=raw.box_xyxy,
            health=raw.health,
        ),
        spec,
        rule,
    )
    return DeviceAnswer(
        class_name=answer.class_name,
        class_index=answer.class_index,
        class_probs=answer.class_probs,
        classes=answer.classes,
        box_xyxy=answer.box_xyxy,
        parts=raw.parts,
        health=answer.health,
        flags=answer.flags,
    )
