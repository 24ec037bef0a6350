"""`spacecompile compare`: two results files side by side, nothing measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from spacecompile.cli import console
from spacecompile.errors import SpacecompileError

if TYPE_CHECKING:
    from spacecompile.benchmarks.compare.records import Change, Comparison

_STYLES = {"same": "dim", "better": "green", "worse": "bold red", "not judged": "yellow"}


def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Results file that `bench --json` wrote before.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Results file to judge.")],
    *,
    fail_on: Annotated[
        str | None, typer.Option(help="Exit with 6 when something got worse by this share, such as 5%.")
    ] = None,
    json: Annotated[str | None, typer.Option("--json", help="Write the comparison to FILE, or - for stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the JSON file.")] = False,
) -> None:
    """Tell what changed between two results files of `bench` from noise.

    With --fail-on it exits with 6 when something got worse beyond noise by that share, after everything is written.

    Example: spacecompile compare old.json new.json --fail-on 5%
    """
    from spacecompile.benchmarks.compare.compare import compare as compared
    from spacecompile.benchmarks.compare.compare import regression_error, share_from_text

    share = None if fail_on is None else share_from_text(fail_on)
    console.check_json(json, force=force)
    comparison = compared(old, new, fail_on=share)
    _say(comparison)
    error: SpacecompileError | None = regression_error(comparison)
    if json is not None:
        console.emit_json(comparison, json)
    if error:
        error.has_document = json == "-"
        raise error


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
