"""Lines through measured costs: what an answer costs whatever its size, and what each unit adds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spacecompile.benchmarks.limits.scaling_records import Axis, Fit, ScalingPoint

_POINTS_MIN = 3
"""Through two points every line is exact."""

VARIABLES: dict[Axis, str] = {
    "input": "megapixels",
    "frame": "megapixels",
    "batch": "inputs",
    "threads": "1/threads",
    "augmentation": "views",
}
"""What the line of each axis runs over. Of threads it is Amdahl's law: a serial part and one that they share."""


def variable_of(axis: Axis, value: float, aspect: float) -> float:
    """What a point's value means to the line: pixels grow with the square of a side.

    Args:
        axis: Axis of the curve.
        value: Value of the point.
        aspect: Width over height of the network's input.
    """
    if axis in ("input", "frame"):
        return value * value * aspect / 1e6
    return 1 / value if axis == "threads" else value


def fitted(axis: Axis, points: Sequence[ScalingPoint], aspect: float) -> Fit | None:
    """The line and the power law of one curve by least squares; None with fewer than three points.

    Args:
        axis: Axis of the curve.
        points: Measured.
        aspect: Width over height of the network's input.
    """
    if len(points) < _POINTS_MIN:
        return None
    variables = np.asarray([variable_of(axis, point.value, aspect) for point in points])
    costs_ms = np.asarray([point.ms for point in points])
    slope_ms, fixed_ms = (float(value) for value in np.polyfit(variables, costs_ms, 1))
    residual = costs_ms - (fixed_ms + slope_ms * variables)
    spread = float(((costs_ms - costs_ms.mean()) ** 2).sum())
    exponent = float(np.polyfit(np.log(variables), np.log(costs_ms), 1)[0])
    return Fit(
        variable=VARIABLES[axis],
        fixed_ms=fixed_ms,
        slope_ms=slope_ms,
        r_squared=1 - float((residual**2).sum()) / spread if spread else 1.0,
        exponent=exponent,
    )
