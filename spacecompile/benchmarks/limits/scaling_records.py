"""What a results file holds about scaling: how the cost of an answer grows with what it is asked of."""

from __future__ import annotations

from typing import Literal

import msgspec

from spacecompile.record import Record

Axis = Literal["input", "frame", "batch", "threads", "augmentation"]


class ScalingPoint(Record):
    """One graph, measured.

    Attributes:
        value: On the axis: side of the input or the frame in pixels, frames per batch, threads, or views.
        ms: Median of one run.
        spread_ms: First and third quartile.
        runs: Number of runs of which it is the median.
        macs: Multiply-adds of the graph, all its frames and views included.
    """

    value: float
    ms: float
    spread_ms: tuple[float, float]
    runs: int
    macs: int


class Fit(Record):
    """A straight line through the points by least squares, and the power of the growth.

    Attributes:
        variable: What the line runs over, for people: `megapixels`, `frames`, `1/threads`, `views`.
        fixed_ms: Where it starts, whatever the value.
        slope_ms: Milliseconds that each unit of the variable adds.
        r_squared: Share of the variance that the line explains, 0 to 1.
        exponent: Exponent of the power law through the same points: 1 where the cost doubles with the variable.
    """

    variable: str
    fixed_ms: float
    slope_ms: float
    r_squared: float
    exponent: float


class ScalingCurve(Record):
    """One axis.

    Attributes:
        axis: What was changed.
        fixed: What was not, for people.
        points: By rising value.
        fit: Absent with fewer than three points, and where the values have no order.
    """

    axis: Axis
    fixed: str
    points: tuple[ScalingPoint, ...]
    fit: Fit | None = None


class ScalingReport(Record):
    """Every curve.

    Attributes:
        backend: Engine of all of them.
        precision: Precision that the engine was asked to compute in.
        curves: In the order in which they were measured.
        skipped: What could not be measured, and why.
    """

    backend: str
    precision: str
    curves: tuple[ScalingCurve, ...]
    skipped: dict[str, str] = msgspec.field(default_factory=dict)
