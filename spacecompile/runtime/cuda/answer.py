"""An answer whose parts mask stays on the GPU.

Layout legend: H, W frame rows and columns; L classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import ModelSpec
from spacecompile.errors import AnswerError
from spacecompile.runtime.answer import Answer, answer_from_raw
from spacecompile.runtime.backend import DeviceParts, DeviceRawAnswer, RawAnswer
from spacecompile.runtime.guard import GuardRule


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceAnswer:
    """An `Answer` whose parts mask is on the GPU until `parts.release()`; everything else is the caller's own.

    Attributes:
        class_name, class_index, class_probs, classes, box_xyxy, health, flags: The same as in `Answer`.
        parts: uint8 mask [H, W] on the GPU, bit 0 body, bit 1 panel. Unlike that of an `Answer`, its values were not
            checked.
    """

    class_name: str
    class_index: int
    class_probs: NDArray[np.float32]
    classes: tuple[str, ...] = field(repr=False)
    box_xyxy: NDArray[np.float32]
    parts: DeviceParts = field(repr=False)
    health: Mapping[str, float]
    flags: tuple[str, ...]


def answer_from_any_raw(raw: RawAnswer | DeviceRawAnswer, spec: ModelSpec, rule: GuardRule) -> Answer | DeviceAnswer:
    """Check the outputs of one run that came to the host, and name them.

    Raises:
        AnswerError: If no sound graph can put them out; a mask on the GPU is released then.
    """
    if isinstance(raw, RawAnswer):
        return answer_from_raw(raw, spec, rule)
    on_host = RawAnswer(
        class_probs_L=raw.class_probs_L,
        parts_HW=np.zeros((1, 1), np.uint8),
        box_xyxy=raw.box_xyxy,
        health=raw.health,
    )
    try:
        answer = answer_from_raw(on_host, spec, rule)
    except AnswerError:
        # The caller gets no view that it could release, and a kept traceback would hold the GPU's memory.
        raw.parts.release()
        raise
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
