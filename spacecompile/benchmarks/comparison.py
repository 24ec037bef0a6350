"""Two results files side by side: what changed, whether by more than noise, and whether for the worse.

A median of latencies counts as changed when a bootstrap interval of the ratio of the two medians leaves out 1; numbers
that are counted or scored, not timed, have no noise. What both files measured of a peer, whose code did not change,
tells how far the machine itself moved: each ratio is read against it.

Bootstrap intervals: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from msgspec import UnsetType

from spacecompile.benchmarks.records import BenchResult, Latency
from spacecompile.errors import BudgetError, UsageError
from spacecompile.record import Record

CONFIDENCE = 0.99
"""Of the interval that decides whether a median changed."""

_RESAMPLES = 4000
_SAMPLES_MIN = 11
"""The sample floor of a median; below it nothing is judged."""

Verdict = Literal["same", "better", "worse", "not judged"]


class Change(Record):
    """One number in both files.

    Attributes:
        what: The number.
        group: `latency`, `score`, `cost`, `size` or `roofline`.
        unit: Of both; empty for a score or a share.
        old, new: Its values.
        change: New over old minus 1, so that 0.05 is 5 % more.
        interval: Of `change` at `CONFIDENCE`; None where there is no noise or too few samples.
        lower_is_better: Which way is worse.
        verdict: Beyond noise.
        note: Why it is not judged; empty otherwise.
    """

    what: str
    group: Literal["latency", "score", "cost", "size", "roofline"]
    unit: str
    old: float
    new: float
    change: float
    interval: tuple[float, float] | None
    lower_is_better: bool
    verdict: Verdict
    note: str = ""

    @property
    def worse_by(self) -> float:
        """How much worse, 0 for no worse: 0.05 is 5 %."""
        if self.verdict != "worse":
            return 0.0
        return self.change if self.lower_is_better else -self.change


class Comparison(Record):
    """Everything that both files hold.

    Attributes:
        old, new: Names of the files.
        bundles: Names of what was measured.
        changes: In the order of the results file.
        only_old, only_new: Contestants that one file lacks.
        drift: What the peers that both measured say of the machine: new over old minus 1, by peer. Not corrected for.
        differences: Circumstances that differ, which a change may come from.
        fail_on: Share from which something that got worse fails; None to fail never.
        failed: What got worse by as much.
    """

    old: str
    new: str
    bundles: tuple[str, str]
    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    drift: dict[str, float]
    differences: tuple[str, ...]
    fail_on: float | None
    failed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NamedResult:
    """A results file and its name."""

    name: str
    result: BenchResult


def compare(old: NamedResult, new: NamedResult, *, fail_on: float | None = None) -> Comparison:
    """Compare two results.

    Args:
        old: The reference.
        new: To judge.
        fail_on: Share, 0.05 for 5 %; None to judge only.

    Raises:
        UsageError: If the files have nothing in common.
    """
    changes = [
        *_latency_changes(old.result, new.result),
        *_score_changes(old.result, new.result),
        *_cost_changes(old.result, new.result),
    ]
    peers = _peer_names(old.result) | _peer_names(new.result)
    subjects = {change.what: change.what.split(",")[0] for change in changes}
    drift = {
        subjects[change.what]: change.change
        for change in changes
        if subjects[change.what] in peers and ", app, " in change.what
    }
    judged = [change for change in changes if subjects[change.what] not in peers]
    if not any(change.group in ("latency", "score") for change in changes):
        raise UsageError(
            f"{old.name} and {new.name} measured nothing in common. Compare two results files of the same variants."
        )
    names = [_contestants(named.result) for named in (old, new)]
    return Comparison(
        old=old.name,
        new=new.name,
        bundles=(old.result.subject.bundle, new.result.subject.bundle),
        changes=tuple(judged),
        only_old=tuple(name for name in names[0] if name not in names[1]),
        only_new=tuple(name for name in names[1] if name not in names[0]),
        drift=drift,
        differences=tuple(_differences(old.result, new.result)),
        fail_on=fail_on,
        failed=tuple(change.what for change in judged if fail_on is not None and change.worse_by >= fail_on > 0),
    )


def regression_error(comparison: Comparison) -> BudgetError | None:
    """What the command fails with, if anything."""
    if not comparison.failed or comparison.fail_on is None:
        return None
    return BudgetError(
        f"{len(comparison.failed)} of {len(comparison.changes)} numbers got worse beyond noise by "
        f"{comparison.fail_on:.3g} or more of their old value: {', '.join(comparison.failed)}. "
        "Find what changed between the two files, or measure again on a quieter machine."
    )


def share_from_text(text: str) -> float:
    """`5%` or `0.05`, as a share.

    Raises:
        UsageError: If it is neither, or not above zero.
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = float("nan")
    if not 0 < share < float("inf"):
        raise UsageError(f"--fail-on is {text!r}; give a share above zero such as 5%.")
    return share


def ratio_interval(
    old_ms: Sequence[float], new_ms: Sequence[float], *, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the ratio of two medians, new over old.

    Args:
        old_ms: Samples of the reference.
        new_ms: Samples to judge.
        confidence: Share of the resampled ratios inside.
        seed: Of the resampling.
    """
    rng = np.random.default_rng(seed)
    medians = [
        np.median(rng.choice(np.asarray(samples_ms), (_RESAMPLES, len(samples_ms))), axis=1)
        for samples_ms in (old_ms, new_ms)
    ]
    outside = (1 - confidence) / 2
    low, high = np.quantile(medians[1] / medians[0], (outside, 1 - outside))
    return float(low), float(high)


def _latency_changes(old: BenchResult, new: BenchResult) -> Iterator[Change]:
    if isinstance(old.latency, UnsetType) or isinstance(new.latency, UnsetType):
        return
    for scope in filter(new.latency.__contains__, old.latency):
        for name, before in old.latency[scope].items():
            after = new.latency[scope].get(name)
            if after is not None:
                yield _timed(f"{name}, {scope}, median", before, after)


def _timed(what: str, before: Latency, after: Latency) -> Change:
    medians = [float(np.median(latency.samples_ms)) for latency in (before, after)]
    change = medians[1] / medians[0] - 1
    fewest = min(before.samples, after.samples)
    interval = None
    if fewest >= _SAMPLES_MIN:
        low, high = ratio_interval(before.samples_ms, after.samples_ms)
        interval = (low - 1, high - 1)
    return Change(
        what=what,
        group="latency",
        unit="ms",
        old=medians[0],
        new=medians[1],
        change=change,
        interval=interval,
        lower_is_better=True,
        verdict="not judged" if interval is None else _beyond(interval),
        note=f"{fewest} samples, {_SAMPLES_MIN} are needed" if interval is None else "",
    )


def _beyond(interval: tuple[float, float]) -> Verdict:
    low, high = interval
    return "worse" if low > 0 else "better" if high < 0 else "same"


def _score_changes(old: BenchResult, new: BenchResult) -> Iterator[Change]:
    if isinstance(old.score, UnsetType) or isinstance(new.score, UnsetType):
        return
    same_data = (old.score.data, old.score.split) == (new.score.data, new.score.split)
    for name, before in old.score.variants.items():
        after = new.score.variants.get(name)
        if after is None:
            continue
        comparable = same_data and before.frames == after.frames
        for key in ("s_cls", "s_det", "s_seg", "s_final"):
            yield _counted(
                f"{name}, {key}",
                "score",
                getattr(before, key),
                getattr(after, key),
                lower_is_better=False,
                note="" if comparable else "scored on other frames",
            )


def _cost_changes(old: BenchResult, new: BenchResult) -> Iterator[Change]:
    before, after = old.budget.cost, new.budget.cost
    yield _counted("parameters", "cost", before.params, after.params)
    yield _counted("multiply-adds, fvcore", "cost", before.macs_fvcore, after.macs_fvcore)
    for name, size_bytes in old.subject.variant_bytes.items():
        if name in new.subject.variant_bytes:
            yield _counted(f"{name}, file", "size", size_bytes, new.subject.variant_bytes[name], unit="bytes")
    if isinstance(old.roofline, UnsetType) or isinstance(new.roofline, UnsetType):
        return
    for name, limit in old.roofline.variants.items():
        if name in new.roofline.variants:
            yield _counted(
                f"{name}, limit reached",
                "roofline",
                limit.share,
                new.roofline.variants[name].share,
                lower_is_better=False,
                note="the limit is measured anew in each file",
            )


def _counted(
    what: str,
    group: Literal["score", "cost", "size", "roofline"],
    old: float,
    new: float,
    *,
    unit: str = "",
    lower_is_better: bool = True,
    note: str = "",
) -> Change:
    """A number without noise: any difference is a change, unless a note says why it can't be judged."""
    change = new / old - 1 if old else float(new != old)
    got_worse = change > 0 if lower_is_better else change < 0
    verdict: Verdict = "same" if new == old else "worse" if got_worse else "better"
    return Change(
        what=what,
        group=group,
        unit=unit,
        old=old,
        new=new,
        change=change,
        interval=None,
        lower_is_better=lower_is_better,
        verdict="not judged" if note else verdict,
        note=note,
    )


def _peer_names(result: BenchResult) -> frozenset[str]:
    return frozenset() if isinstance(result.peers, UnsetType) else frozenset(result.peers)


def _contestants(result: BenchResult) -> list[str]:
    return [] if isinstance(result.latency, UnsetType) else list(result.latency.get("app", {}))


_CIRCUMSTANCES: dict[str, Callable[[BenchResult], object]] = {
    "processor": lambda result: result.environment.cpu,
    "threads": lambda result: result.environment.threads,
    "governor": lambda result: result.environment.governor,
    "platform": lambda result: result.environment.platform,
    "checkpoint": lambda result: result.subject.source_sha256[:12],
    "input": lambda result: result.subject.input_size_px,
    "frame": lambda result: result.subject.frame_size_px,
    "spacecompile": lambda result: result.version,
    "run interrupted": lambda result: result.partial,
}


def _differences(old: BenchResult, new: BenchResult) -> Iterator[str]:
    for name, fact in _CIRCUMSTANCES.items():
        if fact(old) != fact(new):
            yield f"{name}: {fact(old)} in the old file, {fact(new)} in the new one"
    before, after = old.environment.versions, new.environment.versions
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{name}: {before.get(name, 'absent')} in the old file, {after.get(name, 'absent')} in the new one"
