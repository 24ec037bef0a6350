"""The Pareto frontier of two scores, and its knee."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]
"""(efficiency, accuracy), higher is better in both."""


def frontier_of(points: Sequence[Point]) -> tuple[int, ...]:
    """Indices of the points that no other point beats in one score without losing in the other.

    Returns:
        From the most efficient to the most accurate; of equal points the first only.
    """
    order = sorted(range(len(points)), key=lambda index: (-points[index][0], -points[index][1], index))
    frontier: list[int] = []
    for index in order:
        if not frontier or points[index][1] > points[frontier[-1]][1]:
            frontier.append(index)
    return tuple(frontier)


def knee_of(points: Sequence[Point], frontier: Sequence[int]) -> int | None:
    """The frontier's point farthest from the straight line between its ends, both scores scaled to 0..1.

    Before the knee accuracy is cheap, behind it dear (Satopaa et al. 2011, "Finding a Kneedle in a Haystack").

    Returns:
        Index of the point; None for a frontier of fewer than three points, or one that only bends inwards.
    """
    if len(frontier) < 3:
        return None
    chosen = np.array([points[index] for index in frontier])
    low, span = chosen.min(0), np.ptp(chosen, axis=0)
    scaled = (chosen - low) / span
    # The ends are (1, 0) and (0, 1): the distance from their line is (x + y - 1) / sqrt(2).
    height = scaled.sum(1) - 1
    best = int(height.argmax())
    return frontier[best] if height[best] > 1e-9 else None
