"""The flags of `spacecompile bench` as one record, and the settings that they mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spacecompile.errors import UsageError

if TYPE_CHECKING:
    from spacecompile.benchmarks.latency.interleaved import LatencySettings
    from spacecompile.benchmarks.latency.variants import LoadSettings
    from spacecompile.benchmarks.settings import BenchSettings, ContestSettings, FurtherSettings


@dataclass(frozen=True, kw_only=True)
class BenchFlags:
    """As the command line gives them; `bench` says what each is."""

    bundle: Path | None
    data: Path | None
    split: str
    limit: int | None
    variant: list[str] | None
    backend: str
    threads: int | None
    spinning: bool
    peers: bool
    peer: list[str] | None
    checkpoint: Path | None
    duration: float
    samples: int
    warmup: int
    warmup_seconds: float
    rate: float | None
    paced_seconds: float
    starts: int
    from_file: bool
    throughput: bool
    energy: bool
    torch_scores: bool
    percentiles: str
    budget: Path | None
    roofline: bool
    profile: bool
    scaling: bool
    compare: tuple[Path, Path] | None
    fail_on: str | None
    report: Path | None
    json: str | None
    force: bool
    device: str
    prove: bool


def bench_settings(flags: BenchFlags) -> BenchSettings:
    """What to measure.

    Raises:
        UsageError: If a number or the budget file can't be used.
    """
    from spacecompile.benchmarks.cost.budget import read_budget
    from spacecompile.benchmarks.settings import BenchSettings
    from spacecompile.contract import Budget

    backends = tuple(dict.fromkeys(name.strip() for name in flags.backend.split(",")))
    how = _load_settings(flags, backends[0])
    return BenchSettings(
        contest=_contest_settings(flags, how),
        budget=Budget() if flags.budget is None else read_budget(flags.budget),
        variants=tuple(flags.variant or ()),
        backends=backends,
        data=flags.data,
        split=flags.split,
        score_limit=flags.limit,
        peers=flags.peers,
        checkpoint=flags.checkpoint,
        starts=flags.starts,
        torch_scores=flags.torch_scores,
        throughput=flags.throughput,
        limits=_further_settings(flags, how),
    )


def latency_settings(flags: BenchFlags) -> LatencySettings:
    """How long the latency run lasts.

    Raises:
        UsageError: If a number can't be used.
    """
    from spacecompile.benchmarks.latency.interleaved import LatencySettings

    return LatencySettings.for_samples(
        flags.samples, duration_s=flags.duration, warmup_rounds=flags.warmup, warmup_s=flags.warmup_seconds
    )


def percentiles_from_text(text: str) -> tuple[float, ...]:
    """Parse and check --percentiles before anything is measured.

    Raises:
        UsageError: If one is no number between 0 and 100.
    """
    from spacecompile.benchmarks.latency.summary import sample_floor

    try:
        values = tuple(float(value) for value in text.split(","))
    except ValueError as error:
        raise UsageError(f"percentiles are {text!r}; give numbers with commas, for example 50,90,99.") from error
    for value in values:
        sample_floor(value)
    return values


def _load_settings(flags: BenchFlags, backend: str) -> LoadSettings:
    from spacecompile.benchmarks.latency.variants import LoadSettings
    from spacecompile.runtime.threads import usable_cores

    threads = usable_cores() if flags.threads is None else flags.threads
    return LoadSettings(backend=backend, threads=threads, spinning=flags.spinning)


def _contest_settings(flags: BenchFlags, how: LoadSettings) -> ContestSettings:
    from spacecompile.benchmarks.settings import ContestSettings

    return ContestSettings(
        how=how,
        latency=latency_settings(flags),
        percentiles=percentiles_from_text(flags.percentiles),
        peers=tuple(flags.peer or ()),
        from_file=flags.from_file,
        rate_hz=flags.rate,
        paced_s=flags.paced_seconds,
        energy=flags.energy,
    )


def _further_settings(flags: BenchFlags, how: LoadSettings) -> FurtherSettings | None:
    from spacecompile.benchmarks.settings import FurtherSettings

    if not (flags.roofline or flags.profile or flags.scaling):
        return None
    return FurtherSettings(
        duration_s=flags.duration,
        threads=how.threads,
        spinning=flags.spinning,
        roofline=flags.roofline,
        profile=flags.profile,
        scaling=flags.scaling,
    )
