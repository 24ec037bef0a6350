from __future__ import annotations

from statistics import pstdev

import numpy as np
import pytest

from spacecompile.benchmarks.latency.summary import paired_ratio, percentile_key, percentile_of, sample_floor, summarise
from spacecompile.errors import UsageError

# A recorded run of the plain export on two cores, in milliseconds, with the burst that a neighbour caused.
RECORDED_MS = (
    118.21, 119.04, 117.86, 121.55, 118.93, 120.10, 118.47, 254.80, 231.12, 119.66,
    118.02, 118.75, 119.91, 118.33, 122.04, 117.95, 118.60, 119.27, 118.11, 120.45,
)  # fmt: skip


@pytest.mark.parametrize(
    ("percentile", "floor"),
    [(50, 11), (90, 64), (95, 130), (99, 662), (99.9, 6636), (10, 64), (1, 662), (0.1, 6636)],
    ids=lambda value: f"{value:g}",
)
def test_sample_floors_are_the_published_ones(percentile: float, floor: int) -> None:
    assert sample_floor(percentile) == floor


@pytest.mark.parametrize("percentile", [50, 90, 99])
def test_a_sample_floor_is_the_first_count_with_two_samples_beyond_at_99_percent(percentile: float) -> None:
    below = percentile / 100

    def at_least_two_beyond(samples: int) -> float:
        return float(1 - below**samples - samples * (1 - below) * below ** (samples - 1))

    floor = sample_floor(percentile)
    assert at_least_two_beyond(floor) >= 0.99 > at_least_two_beyond(floor - 1)


@pytest.mark.parametrize("percentile", [0, 100, -5, 250, float("nan")])
def test_a_percentile_outside_0_to_100_is_refused(percentile: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 100"):
        sample_floor(percentile)


def test_summary_of_a_recorded_run_has_the_golden_numbers() -> None:
    latency = summarise(RECORDED_MS)
    assert latency.samples == 20
    assert latency.p50_ms == 119.04  # the eleventh of twenty: a measured sample, rounded up
    assert (latency.min_ms, latency.max_ms) == (117.86, 254.80)
    assert latency.mean_ms == pytest.approx(131.5585)
    assert latency.variation == pytest.approx(pstdev(RECORDED_MS) / 131.5585)
    assert latency.samples_ms == RECORDED_MS


def test_a_percentile_below_its_floor_is_none_and_says_how_many_samples_are_missing() -> None:
    latency = summarise(RECORDED_MS, further_percentiles=(99.9,))
    assert latency.p90_ms is None
    assert latency.p99_ms is None
    assert latency.further_ms == {"p99.9_ms": None}
    assert latency.missing_samples == {"p90_ms": 44, "p99_ms": 642, "p99.9_ms": 6616}


def test_every_percentile_of_a_long_run_is_a_measured_sample() -> None:
    samples_ms = np.random.default_rng(3).gamma(9, 10, size=700).round(3).tolist()
    latency = summarise(samples_ms, further_percentiles=(75,))
    assert latency.missing_samples == {}
    for key in ("p50_ms", "p75_ms", "p90_ms", "p99_ms"):
        assert percentile_of(latency, key) in samples_ms
    assert latency.p99_ms == sorted(samples_ms)[693]  # ceil(0.99 * 699) = 693 lie below it


def test_outliers_stay_in() -> None:
    samples_ms = [100.0] * 99 + [10_000.0]
    latency = summarise(samples_ms)
    assert latency.max_ms == 10_000
    assert latency.mean_ms == 199


def test_no_sample_is_an_error() -> None:
    with pytest.raises(UsageError, match="no latency sample"):
        summarise([])


@pytest.mark.parametrize(("percentile", "key"), [(50, "p50_ms"), (99.0, "p99_ms"), (99.9, "p99.9_ms")])
def test_percentile_keys_read_well(percentile: float, key: str) -> None:
    assert percentile_key(percentile) == key


def test_a_ratio_is_the_median_of_the_rounds_that_both_ran() -> None:
    ours_ms = {0: 10.0, 1: 12.0, 2: 30.0, 3: 9.0, 4: 11.0}
    theirs_ms = {0: 20.0, 2: 40.0, 4: 44.0, 6: 20.0}
    ratio = paired_ratio(ours_ms, theirs_ms)
    assert ratio is not None
    assert ratio.rounds == 3  # 0, 2 and 4 with 0.5, 0.75 and 0.25
    assert ratio.ratio == 0.5
    assert ratio.spread == (0.375, 0.625)


def test_a_drift_that_meets_both_leaves_the_ratio_alone() -> None:
    drift = np.linspace(1, 3, 50)
    ratio = paired_ratio(dict(enumerate(60 * drift)), dict(enumerate(80 * drift)))
    assert ratio is not None
    assert ratio.ratio == pytest.approx(0.75)
    assert ratio.spread == pytest.approx((0.75, 0.75))


def test_no_common_round_gives_no_ratio() -> None:
    assert paired_ratio({0: 1.0}, {1: 1.0}) is None
