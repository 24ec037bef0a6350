"""Settings of a benchmark run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spacecompile.benchmarks.latency.interleaved import LatencySettings
from spacecompile.benchmarks.latency.paced import PACED_S, check_rate
from spacecompile.benchmarks.latency.variants import LoadSettings
from spacecompile.contract import Budget
from spacecompile.errors import UsageError
from spacecompile.runtime.threads import usable_cores


@dataclass(frozen=True, kw_only=True)
class ContestSettings:
    """Who takes part in the latency run, and what is timed.

    Attributes:
        how: How the variants are loaded. The peers take the number of threads from it, and their libraries' defaults
            for everything else.
        latency: Length of the latency run.
        percentiles: Percentiles to report beside the usual ones.
        peers: Names of the peers that take part; all that fit when empty.
        from_file: Whether scope `file` is measured too, of the variants without test-time augmentation.
        rate_hz: Rate of the paced run after the latency run; None leaves it out.
        paced_s: Seconds for which each contestant of the paced run is handed frames.
        energy: Whether energy is measured where the machine counts it.
    """

    how: LoadSettings = field(
        default_factory=lambda: LoadSettings(backend="auto", threads=usable_cores(), spinning=True)
    )
    latency: LatencySettings = field(default_factory=LatencySettings)
    percentiles: tuple[float, ...] = ()
    peers: tuple[str, ...] = ()
    from_file: bool = True
    rate_hz: float | None = None
    paced_s: float = PACED_S
    energy: bool = True


@dataclass(frozen=True, kw_only=True)
class FurtherSettings:
    """What to measure beyond latency and scores; threads and duration are those of the latency run.

    Attributes:
        roofline: Whether the machine's limits are measured, and the share of them that each variant reaches.
        profile: Whether every layer is timed, which needs the machine's limits.
        scaling: Whether other sizes are built and measured too.
    """

    roofline: bool = True
    profile: bool = False
    scaling: bool = False


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What to measure, and how.

    Attributes:
        contest: Settings of the latency run and of what is timed after it.
        budget: Limits that the bundle is judged by.
        variants: Names of the variants to measure; all of the bundle when empty.
        backends: Engines that run the variants: names, `auto` for the best of each, `all` for every certified one that
            is present.
        data: Labelled frames for scores and for the latency stream; None for the bundle's self-test frames.
        split: Split of `data`.
        score_limit: Number of frames to score; None for all.
        stream_frames: Largest number of different frames in the latency run.
        peers: Whether PyTorch is asked: the peers, the cost of each stage, and the scores next to the variants'.
        checkpoint: File with the bundle's source weights; None to look for it.
        starts: Number of processes in which each variant is started for load time and memory; 0 leaves that out.
        torch_scores: Whether PyTorch is scored too, with every augmentation that the variants have.
        throughput: Whether sessions side by side are measured.
        limits: Settings of roofline, layers and scaling; None to leave all of them out.
    """

    contest: ContestSettings = field(default_factory=ContestSettings)
    budget: Budget = field(default_factory=Budget)
    variants: tuple[str, ...] = ()
    backends: tuple[str, ...] = ("auto",)
    data: Path | None = None
    split: str = "val"
    score_limit: int | None = None
    stream_frames: int = 16
    peers: bool = True
    checkpoint: Path | None = None
    starts: int = 0
    torch_scores: bool = False
    throughput: bool = False
    limits: FurtherSettings | None = None


def check_settings(settings: BenchSettings) -> None:
    """Refuse settings that could only fail after minutes.

    Raises:
        UsageError: If a number is out of range.
    """
    if settings.stream_frames < 1:
        raise UsageError(f"the latency stream has {settings.stream_frames} frames; at least one is needed.")
    if settings.starts < 0:
        raise UsageError(f"starts is {settings.starts}; give the number of processes, or 0. Check --starts.")
    check_rate(settings.contest.rate_hz, settings.contest.paced_s)
    if settings.contest.how.threads < 1:
        raise UsageError(f"threads is {settings.contest.how.threads}; at least one is needed. Check --threads.")
