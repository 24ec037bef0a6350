"""How tables look on stderr."""

from __future__ import annotations

from rich.table import Table


def plain_table(title: str, first: str, *others: str) -> Table:
    """A table without lines whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for other in others:
        table.add_column(other, justify="right", no_wrap=True)
    return table


def row(title: str, text: str) -> str:
    """One line; an empty title continues the one above."""
    return f"{title:<10} {text}"
