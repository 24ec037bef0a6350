"""Two results files side by side: what changed, whether by more than noise, and whether for the worse.

A median of latencies counts as changed when a bootstrap interval of the ratio of the two medians leaves out 1; numbers
that are counted or scored, not timed, have no noise. What both files measured of a peer, whose code did not change,
tells how far the machine itself moved, as long as both files are of one network, which the peers run too: a variant is
judged by its ratio over that of the peers. Without such a peer it is judged by its own ratio, and not at all where
processor, threads or engine differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import UnsetType

from spacecompile.benchmarks.compare.latency import latency_changes, peer_drift, why_no_drift
from spacecompile.benchmarks.compare.records import Change, Comparison, Verdict
from spacecompile.benchmarks.result_records import BenchResult, read_result
from spacecompile.errors import BudgetError, UsageError


@dataclass(frozen=True, kw_only=True)
class NamedResult:
    """A results file and its name."""

    name: str
    result: BenchResult


def compare(
    old: BenchResult | Path | str, new: BenchResult | Path | str, *, fail_on: float | None = None
) -> Comparison:
    """Tell what changed between two results of `bench` from noise.

    Example:
        spacecompile.compare("old.json", "new.json", fail_on=0.05).changes

    Args:
        old: Result, or results file, that is the reference.
        new: Result, or results file, to judge.
        fail_on: Share by which something must get worse to count as a regression, 0.05 for 5 %; None to judge only.

    Raises:
        UsageError: If a file can't be read, is no results file, or the two have nothing in common.
    """
    return compare_named(_named(old, "old"), _named(new, "new"), fail_on=fail_on)


def _named(given: BenchResult | Path | str, name: str) -> NamedResult:
    if isinstance(given, BenchResult):
        return NamedResult(name=name, result=given)
    path = Path(given)
    try:
        return NamedResult(name=path.name, result=read_result(path.read_bytes()))
    except OSError as error:
        raise UsageError(
            f"can't read {path}: {error.strerror}. Give results files that `bench --json` wrote."
        ) from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is no results file: {error}. Give files that `bench --json` wrote.") from error


def compare_named(old: NamedResult, new: NamedResult, *, fail_on: float | None = None) -> Comparison:
    """Compare two results.

    Args:
        old: The reference.
        new: To judge.
        fail_on: Share, 0.05 for 5 %; None to judge only.

    Raises:
        UsageError: If the files have nothing in common.
    """
    changes = [
        *latency_changes(old.result, new.result),
        *_score_changes(old.result, new.result),
        *_cost_changes(old.result, new.result),
    ]
    if not any(change.group in ("latency", "score") for change in changes):
        raise UsageError(
            f"{old.name} and {new.name} measured nothing in common. Compare two results files of the same variants."
        )
    names = [_contestants(named.result) for named in (old, new)]
    return Comparison(
        old=old.name,
        new=new.name,
        bundles=(old.result.subject.bundle, new.result.subject.bundle),
        changes=tuple(changes),
        only_old=tuple(name for name in names[0] if name not in names[1]),
        only_new=tuple(name for name in names[1] if name not in names[0]),
        drift=peer_drift(old.result, new.result),
        drift_note=why_no_drift(old.result, new.result),
        differences=tuple(_differences(old.result, new.result)),
        fail_on=fail_on,
        failed=tuple(change.what for change in changes if fail_on is not None and change.worse_by >= fail_on > 0),
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
    "partial run": lambda result: result.partial,
}


def _differences(old: BenchResult, new: BenchResult) -> Iterator[str]:
    for name, fact in _CIRCUMSTANCES.items():
        if fact(old) != fact(new):
            yield f"{name}: {fact(old)} in the old file, {fact(new)} in the new one"
    before, after = old.environment.versions, new.environment.versions
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{name}: {before.get(name, 'absent')} in the old file, {after.get(name, 'absent')} in the new one"
