"""How tables, sizes and costs look on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import table as rich_table
from rich.markup import escape
from rich.text import Text

from spacecompile.cli import console
from spacecompile.page.table import Column, Row, Table, giga, mega

if TYPE_CHECKING:
    from spacecompile.contract import Cost

_STYLES = {"good": "green", "bad": "bold red", "faint": "dim", "total": "bold"}
_HEAD_CHARS = 9
"""Longer headings take several lines, so that a table with many columns fits 80 characters."""


def say_table(table: Table) -> None:
    """Print a table without its details, then the reasons that stand in place of rows, its notes, and an empty line."""
    kept = [index for index, column in enumerate(table.columns) if not column.is_detail]
    columns = [table.columns[index] for index in kept]
    rows = [row for row in table.rows if not row.reason]
    if rows:
        console.stderr.print(
            _drawn(table.title, columns, [(row, [row.cells[i - 1] for i in kept[1:]]) for row in rows])
        )
    else:
        console.say(f"[bold]{escape(table.title)}[/]")
    reasons: dict[str, list[str]] = {}
    for row in table.rows:
        if row.reason:
            reasons.setdefault(", ".join((row.reason, *row.cells)), []).append(row.name)
    for reason, names in reasons.items():
        console.say(escape(f"{', '.join(names)}: {reason}" if any(names) else reason))
    for note in table.notes:
        console.say(f"[dim]{escape(note)}[/]" if rows else escape(note))
    console.say("")


def _drawn(title: str, columns: Sequence[Column], rows: Sequence[tuple[Row, Sequence[str]]]) -> rich_table.Table:
    first_chars = max(_HEAD_CHARS, *(len(row.name) for row, _ in rows))
    widths = (first_chars, *(_HEAD_CHARS for _ in columns[1:]))
    heads = (_folded(column.head, chars) for column, chars in zip(columns, widths, strict=True))
    drawn = plain_table(escape(title), *heads)
    for column, shown in zip(columns, drawn.columns, strict=True):
        shown.justify = "left" if column is columns[0] or column.kind == "text" else "right"
        shown.no_wrap = column.kind != "text"
    for row, cells in rows:
        style = _STYLES.get(row.tone, "") if row.tone in ("faint", "total") else ""
        drawn.add_row(Text(row.name), *map(_cell, cells, columns[1:], [row] * len(cells)), style=style)
    return drawn


def _folded(head: str, chars: int) -> str:
    return textwrap.fill(head, chars, break_long_words=False)


def _cell(text: str, column: Column, row: Row) -> Text:
    unit = "%" if text and column.kind in ("percent", "meter") else ""
    style = _STYLES.get(row.tone, "") if column.kind == "verdict" else "bold" if column.bold else ""
    return Text(f"{text}{unit}", style)


def plain_table(title: str, first: str, *others: str) -> rich_table.Table:
    """A table without lines whose first column is text and whose others are numbers."""
    table = rich_table.Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    table.add_column(first, no_wrap=True)
    for other in others:
        table.add_column(other, justify="right", no_wrap=True)
    return table


def row(title: str, text: str) -> str:
    """One line; an empty title continues the one above."""
    return f"{title:<10} {text}"


def megabytes(num_bytes: int, digits: int = 1) -> str:
    """A size with its unit."""
    return f"{mega(num_bytes, digits)} MB"


def size(size_px: tuple[int, int]) -> str:
    """Height and width of a frame or an input."""
    return f"{size_px[0]}x{size_px[1]}"


def cost(network: Cost) -> str:
    """Parameters and multiply-adds of a network, by both counters."""
    macs = f"{giga(network.macs_fvcore)} GMAC (fvcore), {giga(network.macs_torch)} (torch)"
    return f"{mega(network.params)} M parameters, {macs}"
