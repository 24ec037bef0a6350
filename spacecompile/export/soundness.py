"""Whether an answer is one that a sound graph can give, whatever the frame."""

from __future__ import annotations

import numpy as np

from spacecompile.contract import PARTS
from spacecompile.runtime.backends import RawAnswer
from spacecompile.runtime.guard import health_by_name, impossible_output


def unsound(given: RawAnswer, expected: RawAnswer) -> str:
    """What the given answer has that no sound graph puts out, by itself or beside PyTorch's; empty if nothing."""
    height_px, width_px = given.parts_HW.shape
    impossible = impossible_output(given, (height_px, width_px))
    if impossible is not None:
        return impossible
    health, expected_health = health_by_name(given), health_by_name(expected)
    counted_px = {f"{part}_px": int(np.count_nonzero(given.parts_HW >> bit & 1)) for bit, part in enumerate(PARTS)}
    wrong = [name for name, count_px in counted_px.items() if abs(health[name] - count_px) > 1]
    wrong += [name for name in ("part_confidence", "view_disagreement") if not -1e-3 <= health[name] <= 1 + 1e-3]
    # Of the frame itself: the same in every precision.
    wrong += [name for name in ("frame_mean", "frame_max") if abs(health[name] - expected_health[name]) > 1]
    return f"{wrong[0]} {health[wrong[0]]:g}, which its own parts or the frame contradict" if wrong else ""
