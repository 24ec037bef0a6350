"""From latency samples to numbers: percentiles with their sample floors, and ratios of paired samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb

import numpy as np

from spacecompile.benchmarks.latency.records import Latency, Ratio
from spacecompile.errors import UsageError

CONFIDENCE = 0.99
"""With which at least two samples lie beyond a percentile that is printed."""

CORE_PERCENTILES = (50.0, 90.0, 99.0)
"""Every result holds these; more can be asked for."""

NOISY_VARIATION = 0.10
"""Coefficient of variation above which a contestant's samples are called noisy."""


def sample_floor(percentile: float) -> int:
    """Fewest samples from which a percentile may be printed.

    The smallest n for which at least two of n independent samples lie beyond the percentile with 99 % confidence:
    1 - q^n - n (1-q) q^(n-1) >= 0.99. That is 11 for the median, 64 for p90, 662 for p99, 6,636 for p99.9. Below the
    median the samples that are rare lie on the other side, so that p1 needs as many as p99.

    Raises:
        UsageError: If the percentile is not between 0 and 100, both excluded.
    """
    if not 0 < percentile < 100:
        raise UsageError(f"percentile {percentile:g} was asked for; give values between 0 and 100, both excluded.")
    below = max(percentile, 100 - percentile) / 100
    low, high = 1, 2
    while _beyond(below, high) < CONFIDENCE:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _beyond(below, middle) >= CONFIDENCE else (middle, high)
    return high


def _beyond(below: float, samples: int) -> float:
    """Probability that at least two of `samples` lie beyond the quantile `below`."""
    fewer = sum(comb(samples, count) * (1 - below) ** count * below ** (samples - count) for count in range(2))
    return 1 - fewer


def percentile_key(percentile: float) -> str:
    """The name of a percentile in results: `p50_ms`, `p99.9_ms`."""
    return f"p{percentile:g}_ms"


def summarise(samples_ms: Sequence[float], further_percentiles: Sequence[float] = ()) -> Latency:
    """Percentiles, extremes and spread of one contestant's samples; nothing is clipped or left out.

    A percentile is a sample that was measured, never an interpolation: the smallest one with at least the asked
    share of the samples at or below it, rounded up (numpy's method `higher`).

    Args:
        samples_ms: In the order in which they were measured.
        further_percentiles: Beside `CORE_PERCENTILES`.

    Raises:
        UsageError: If there is no sample.
    """
    if not samples_ms:
        raise UsageError("no latency sample was measured. Measure longer with --duration or --samples.")
    values = np.asarray(samples_ms, np.float64)
    wanted = dict.fromkeys((*CORE_PERCENTILES, *further_percentiles))
    floors = {percentile: sample_floor(percentile) for percentile in wanted}
    allowed = {
        percentile_key(percentile): float(np.percentile(values, percentile, method="higher"))
        for percentile, floor in floors.items()
        if len(values) >= floor
    }
    core = [percentile_key(percentile) for percentile in CORE_PERCENTILES]
    mean_ms = float(values.mean())
    return Latency(
        samples=len(values),
        p50_ms=allowed.get(core[0]),
        p90_ms=allowed.get(core[1]),
        p99_ms=allowed.get(core[2]),
        max_ms=float(values.max()),
        min_ms=float(values.min()),
        mean_ms=mean_ms,
        variation=float(values.std() / mean_ms) if mean_ms else 0.0,
        further_ms={key: allowed.get(key) for percentile in wanted if (key := percentile_key(percentile)) not in core},
        missing_samples={
            percentile_key(percentile): floor - len(values)
            for percentile, floor in floors.items()
            if len(values) < floor
        },
        samples_ms=tuple(round(float(value), 4) for value in values),
    )


def percentile_of(latency: Latency, key: str) -> float | None:
    """A percentile of a summary by its name; None below its sample floor."""
    fixed = {"p50_ms": latency.p50_ms, "p90_ms": latency.p90_ms, "p99_ms": latency.p99_ms}
    return (fixed | latency.further_ms).get(key)


def paired_ratio(ours_ms: Mapping[int, float], theirs_ms: Mapping[int, float]) -> Ratio | None:
    """How much of the peer's time we take, from the rounds in which both answered the same frame.

    Args:
        ours_ms: Latency by round.
        theirs_ms: Samples of the other contestant, by the same keys.

    Returns:
        Median and quartiles of the per-round ratios; None when no round is common.
    """
    rounds = sorted(ours_ms.keys() & theirs_ms.keys())
    if not rounds:
        return None
    ratios = np.asarray([ours_ms[index] / theirs_ms[index] for index in rounds])
    low, middle, high = (float(value) for value in np.percentile(ratios, (25, 50, 75)))
    return Ratio(ratio=middle, spread=(low, high), rounds=len(rounds))
