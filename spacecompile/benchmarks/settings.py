"""Settings of a benchmark run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spacecompile.benchmarks.latency.interleaved import LatencySettings
from spacecompile.benchmarks.latency.paced import PACED_S, check_rate
from spacecompile.benchmarks.latency.variants import (
    LoadSettings,
)
from spacecompile.contract import Budget
from spacecompile.errors import (
    UsageError,
)


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What to measure, and how.

    Attributes:
        contest: Latency.
        budget: Limits.
        variants: Names; all of the bundle when empty.
        backends: That run them: names, `auto` for the best of each, `all` for every certified one that is present.
        data: Labelled frames for scores and for the latency stream; None for the bundle's self-test frames.
        split: Of `data`.
        score_limit: Frames to score; None for all.
        stream_frames: Different frames of the latency run at most.
        peers: Whether PyTorch is asked: the peers, the cost of each stage, and the scores next to the variants'.
        checkpoint: With the bundle's source weights; None to look for it.
        starts: Processes in which each variant is started for load time and memory; 0 leaves that out.
        torch_scores: Whether PyTorch is scored too, with every augmentation that the variants have.
        throughput: Whether sessions side by side are measured.
        limits: Roofline, layers and scaling; None to leave them out.
    """

    contest: ContestSettings
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


@dataclass(frozen=True, kw_only=True)
class FurtherSettings:
    """What of it to measure.

    Attributes:
        duration_s: Of the latency run: these measurements take a share of it.
        threads: Of every engine.
        spinning: Whether idle threads wait busily.
        roofline: Measure the machine's limits and the share of them that each variant reaches.
        profile: Time every layer, which needs the limits.
        scaling: Build and measure other sizes too.
    """

    duration_s: float
    threads: int
    spinning: bool
    roofline: bool = True
    profile: bool = False
    scaling: bool = False


@dataclass(frozen=True, kw_only=True)
class ContestSettings:
    """Who takes part and how long.

    Attributes:
        how: How the variants are loaded; the peers take its number of threads, and their libraries' defaults beyond.
        latency: How long.
        percentiles: Beside the usual ones.
        peers: Names of the peers that take part; all that fit when empty.
        from_file: Whether scope `file` is measured too, of the variants without test-time augmentation.
        rate_hz: Of the paced run after the other; None leaves it out.
        paced_s: How long each contestant of the paced run is handed frames.
        energy: Whether energy is measured where the machine counts it.
    """

    how: LoadSettings
    latency: LatencySettings
    percentiles: tuple[float, ...] = ()
    peers: tuple[str, ...] = ()
    from_file: bool = True
    rate_hz: float | None = None
    paced_s: float = PACED_S
    energy: bool = True
