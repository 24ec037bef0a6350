"""`spacecompile bench --compare OLD NEW`: two results files side by side, nothing measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from spacecompile.cli import console
from spacecompile.errors import SpacecompileError, UsageError

if TYPE_CHECKING:
    from spacecompile.benchmarks.compare.compare import NamedResult
    from spacecompile.benchmarks.compare.records import Change, Comparison

_STYLES = {"same": "dim", "better": "green", "worse": "bold red", "not judged": "yellow"}


def compare_results(paths: tuple[Path, Path] | None, fail_on: str | None, *, json: str | None, force: bool) -> None:
    """Print what changed, write it, and fail when something got worse.

    Args:
        paths: The old file and the new one.
        fail_on: As given.
        json: File to write the comparison to, or `-`.
        force: Replace a file that is there.

    Raises:
        UsageError: If an argument can't be used, or the files have nothing in common.
        BudgetError: If something got worse beyond noise by as much as `fail_on`, after everything was written.
    """
    from spacecompile.benchmarks.compare.compare import compare, regression_error, share_from_text

    if paths is None:
        raise UsageError("--fail-on judges a comparison. Add --compare OLD.json NEW.json.")
    share = None if fail_on is None else share_from_text(fail_on)
    console.check_json(json, force=force)
    old, new = (_read(path) for path in paths)
    comparison = compare(old, new, fail_on=share)
    _say(comparison)
    error: SpacecompileError | None = regression_error(comparison)
    if json is not None:
        console.emit_json(comparison, json)
    if error:
        error.has_document = json == "-"
        raise error


def _read(path: Path) -> NamedResult:
    import msgspec

    from spacecompile.benchmarks.compare.compare import NamedResult
    from spacecompile.benchmarks.result_records import read_result

    try:
        return NamedResult(name=path.name, result=read_result(path.read_bytes()))
    except OSError as error:
        raise UsageError(
            f"can't read {path}: {error.strerror}. Give results files that `bench --json` wrote."
        ) from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is no results file: {error}. Give files that `bench --json` wrote.") from error


def _say(comparison: Comparison) -> None:
    from spacecompile.cli.show.layout import plain_table

    rows = plain_table(f"{comparison.old} -> {comparison.new}", "", "old", "new", "change", "99 % sure", "")
    for change in comparison.changes:
        rows.add_row(
            escape(change.what),
            _number(change, change.old),
            _number(change, change.new),
            _percent(change.change if change.over_peers is None else change.over_peers) + "%",
            "..".join(map(_percent, change.interval)) if change.interval else "",
            f"[{_STYLES[change.verdict]}]{change.verdict}[/]",
        )
    console.stderr.print(rows)
    for note in dict.fromkeys(change.note for change in comparison.changes if change.note):
        which = ", ".join(change.what for change in comparison.changes if change.note == note)
        console.say(f"[yellow]not judged[/] {escape(which)}: {escape(note)}")
    if any(change.over_peers is not None for change in comparison.changes):
        console.say("[dim]changes of latency are over those of the peers, which did the same work in both files[/]")
    elif comparison.drift_note and any(
        change.group == "latency" and change.verdict != "not judged" for change in comparison.changes
    ):
        console.say(
            f"[dim]how far the machine moved is unknown: {comparison.drift_note}; latencies are compared as they are[/]"
        )
    for peer, drift in comparison.drift.items():
        console.say(f"[dim]the machine: peer {escape(peer)} took {drift:+.1%} time in the new file[/]")
    for name, where in [(name, "old") for name in comparison.only_old] + [(n, "new") for n in comparison.only_new]:
        console.say(f"{escape(name)} is in the {where} file only")
    for difference in comparison.differences:
        console.say(f"[yellow]note[/] {escape(difference)}")


def _percent(share: float) -> str:
    """A share with as many digits as say something; the table must fit 80 columns."""
    return f"{100 * share:+.1f}" if abs(share) < 0.1 else f"{100 * share:+.0f}"


def _number(change: Change, value: float) -> str:
    if change.group in ("score", "roofline"):
        return f"{value:.4f}"
    if change.group == "latency":
        return f"{value:,.1f} ms"
    return f"{value / 1e6:,.2f} M{'B' if change.group == 'size' else ''}"
