"""Latencies of two results files: medians with bootstrap intervals, read against the drift of the machine.

Bootstrap intervals: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UnsetType
from numpy.typing import NDArray

from spacecompile.benchmarks.compare.records import CONFIDENCE, Change, Verdict
from spacecompile.benchmarks.latency.records import Latency
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.runtime.backends.registry import BACKENDS

_RESAMPLES = 4000
_SAMPLES_MIN = 11
"""The sample floor of a median; below it nothing is judged."""


def ratio_interval(
    old_ms: Sequence[float], new_ms: Sequence[float], *, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the ratio of two medians, new over old.

    Args:
        old_ms: Samples of the reference.
        new_ms: Samples to judge.
        confidence: Share of the resampled ratios inside.
        seed: Seed of the resampling.
    """
    return _inside(_resampled_ratios(old_ms, new_ms, np.random.default_rng(seed)), confidence)


def _resampled_ratios(
    old_ms: Sequence[float], new_ms: Sequence[float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Ratios of the medians of resampled samples, new over old."""
    before, after = (
        np.median(rng.choice(np.asarray(samples_ms, np.float64), (_RESAMPLES, len(samples_ms))), axis=1)
        for samples_ms in (old_ms, new_ms)
    )
    ratios: NDArray[np.float64] = after / before
    return ratios


def _inside(ratios: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    outside = (1 - confidence) / 2
    low, high = np.quantile(ratios, (outside, 1 - outside))
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class _Drift:
    """How far the machine moved, by the peers of one scope.

    Attributes:
        ratio: Median over the peers, of their medians' ratios.
        resampled: The same of resampled samples.
    """

    ratio: float
    resampled: NDArray[np.float64]


def _drift(old: BenchResult, new: BenchResult, scope: str) -> _Drift | None:
    """Of the peers that did the same work in both files, in one scope; None without one."""
    pairs = _unchanged_latencies(old, new, scope)
    if not pairs:
        return None
    rng = np.random.default_rng(1)
    resampled = [_resampled_ratios(before.samples_ms, after.samples_ms, rng) for before, after in pairs.values()]
    ratios = [_ratio(before, after) for before, after in pairs.values()]
    return _Drift(ratio=float(np.median(ratios)), resampled=np.median(np.stack(resampled), axis=0))


def peer_drift(old: BenchResult, new: BenchResult) -> dict[str, float]:
    """How far the machine moved by each peer that says so, in scope `app`: new over old minus 1.

    Args:
        old: The reference.
        new: To judge.
    """
    return {name: _ratio(*pair) - 1 for name, pair in _unchanged_latencies(old, new, "app").items()}


def why_no_drift(old: BenchResult, new: BenchResult) -> str:
    """Why no peer says how far the machine moved, as a clause; empty where one does.

    Args:
        old: The reference.
        new: To judge.
    """
    if _unchanged_latencies(old, new, "app"):
        return ""
    both = old.peer_names & new.peer_names
    if not any(_latency_of(old, "app", name) and _latency_of(new, "app", name) for name in both):
        return "no peer ran in both"
    if not _same_network(old, new):
        return "their peers ran different networks"
    return f"no peer was measured by the same versions and in {_SAMPLES_MIN} samples in both"


def _unchanged_latencies(old: BenchResult, new: BenchResult, scope: str) -> dict[str, tuple[Latency, Latency]]:
    """Latencies of the peers that both files measured often enough at the same work."""
    found = {}
    for name in sorted(_unchanged_peers(old, new)):
        before, after = _latency_of(old, scope, name), _latency_of(new, scope, name)
        if before and after and min(before.samples, after.samples) >= _SAMPLES_MIN:
            found[name] = (before, after)
    return found


def _unchanged_peers(old: BenchResult, new: BenchResult) -> set[str]:
    """Peers of both files that ran the same network in the same versions: another one is another peer."""
    if isinstance(old.peers, UnsetType) or isinstance(new.peers, UnsetType) or not _same_network(old, new):
        return set()
    return {name for name, peer in old.peers.items() if name in new.peers and peer.versions == new.peers[name].versions}


def _same_network(old: BenchResult, new: BenchResult) -> bool:
    """Whether peers, which run the bundle's own network on its own frames, did the same work in both files."""
    before, after = (
        (subject.source_sha256, subject.input_size_px, subject.frame_size_px) for subject in (old.subject, new.subject)
    )
    return before == after


def _ratio(before: Latency, after: Latency) -> float:
    return float(np.median(after.samples_ms) / np.median(before.samples_ms))


def _latency_of(result: BenchResult, scope: str, name: str) -> Latency | None:
    return None if isinstance(result.latency, UnsetType) else result.latency.get(scope, {}).get(name)


def latency_changes(old: BenchResult, new: BenchResult) -> Iterator[Change]:
    """Every median of a variant that both files hold.

    Args:
        old: The reference.
        new: To judge.
    """
    if isinstance(old.latency, UnsetType) or isinstance(new.latency, UnsetType):
        return
    peers = old.peer_names | new.peer_names
    of_app = _drift(old, new, "app")
    for scope in filter(new.latency.__contains__, old.latency):
        drift = _drift(old, new, scope) or of_app
        for name, before in old.latency[scope].items():
            after = new.latency[scope].get(name)
            if name in peers or after is None or (scope == "device" and _repeats_engine(name, old, new)):
                continue
            note = _measured_otherwise(name, scope, old, new) or ("" if drift else _incomparable(name, old, new))
            yield _timed(f"{name}, {scope}, median", before, after, drift, note)


def _repeats_engine(name: str, old: BenchResult, new: BenchResult) -> bool:
    """Whether scope `device` holds the very samples of `engine` in both files: they count once."""
    pairs = [[_latency_of(result, scope, name) for scope in ("device", "engine")] for result in (old, new)]
    return all(device == engine for device, engine in pairs)


def _measured_otherwise(name: str, scope: str, old: BenchResult, new: BenchResult) -> str:
    """Why a scope of a variant is not the same thing in both files; empty where it is, which on a CPU it always was."""
    engines = {_engine_of(old, name), _engine_of(new, name)}
    if scope not in ("engine", "device") or not any(entry.on_gpu for entry in BACKENDS if entry.name in engines):
        return ""
    meanings = {
        result.configuration.scopes.get(scope)
        for result in (old, new)
        if not isinstance(result.configuration, UnsetType)
    }
    return f"not comparable: scope {scope} was measured otherwise in the older file" if len(meanings) > 1 else ""


def _incomparable(name: str, old: BenchResult, new: BenchResult) -> str:
    """Why latencies of two files can't be compared without a common peer; empty where they can."""
    facts: dict[str, Callable[[BenchResult], object]] = {
        "processor": lambda result: result.environment.cpu,
        "threads": lambda result: result.environment.threads,
        "engine": lambda result: _engine_of(result, name),
    }
    differing = [what for what, fact in facts.items() if fact(old) != fact(new)]
    if not differing:
        return ""
    return f"not comparable: the files differ in {' and '.join(differing)}, and {why_no_drift(old, new)}"


def _engine_of(result: BenchResult, name: str) -> str | None:
    engines = {} if isinstance(result.configuration, UnsetType) else result.configuration.engines
    return engines[name].name if name in engines else None


def _timed(what: str, before: Latency, after: Latency, drift: _Drift | None, note: str) -> Change:
    """A median of two files, judged over the drift of the machine where that is known."""
    medians = [float(np.median(latency.samples_ms)) for latency in (before, after)]
    ratio = _ratio(before, after)
    fewest = min(before.samples, after.samples)
    interval = None
    if fewest >= _SAMPLES_MIN:
        ratios = _resampled_ratios(before.samples_ms, after.samples_ms, np.random.default_rng(0))
        low, high = _inside(ratios if drift is None else ratios / drift.resampled, CONFIDENCE)
        interval = (low - 1, high - 1)
    else:
        note = f"{fewest} samples, {_SAMPLES_MIN} are needed"
    return Change(
        what=what,
        group="latency",
        unit="ms",
        old=medians[0],
        new=medians[1],
        change=ratio - 1,
        over_peers=None if drift is None else ratio / drift.ratio - 1,
        interval=interval,
        lower_is_better=True,
        verdict="not judged" if note or interval is None else _beyond(interval),
        note=note,
    )


def _beyond(interval: tuple[float, float]) -> Verdict:
    low, high = interval
    return "worse" if low > 0 else "better" if high < 0 else "same"
