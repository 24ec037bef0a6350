"""The table of rewrites of `spacecompile build` on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from spacecompile.cli import console

if TYPE_CHECKING:
    from spacecompile.contract import PassReport


def say_passes(reports: Sequence[PassReport]) -> None:
    """Print what each pass saved and how exact it was; nothing where no pass ran.

    Args:
        reports: In the order in which the passes ran.
    """
    if not reports:
        return
    table = Table(title="Rewrites", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in ("pass", "GMAC (fvcore)", "M parameters"):
        table.add_column(column, no_wrap=True)
    # A reason for skipping may be long; it wraps, and the numbers beside it stay whole.
    table.add_column("relative error")
    for report in reports:
        table.add_row(report.name, *_cells(report))
    console.stderr.print(table)


def _cells(report: PassReport) -> tuple[str, str, str]:
    if report.skipped:
        return "", "", f"[yellow]skipped: it {escape(report.skipped)}[/]"
    if not report.changed:
        return "", "", "[dim]nothing to do[/]"
    before, after = report.before, report.after
    return (
        _change(before.macs_fvcore / 1e9, after.macs_fvcore / 1e9),
        _change(before.params / 1e6, after.params / 1e6),
        f"{report.relative_error:.1e}",
    )


def _change(before: float, after: float) -> str:
    """Both values where they differ as printed."""
    first, second = f"{before:.4f}", f"{after:.4f}"
    return first if first == second else f"{first} -> {second}"
