"""A table as text, made once and printed on a terminal, on a page and in a README. Needs no extra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LACKING = " more"
"""End of a cell that tells how many samples its number lacks."""

Kind = Literal["number", "text", "percent", "meter", "verdict"]
_KINDS: tuple[Kind, ...] = ("text", "percent", "meter", "verdict")


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        head: Heading, with the unit after a comma where the cells have one.
        kind: Meaning of the cells: `percent` and `meter` hold the bare number of a percentage, which a meter draws as a
            bar too; a `verdict` takes the colour of its row's tone.
        bold: Whether the column holds what a reader looks for first.
        is_detail: Whether a terminal, which has 80 characters, leaves the column out.
    """

    head: str
    kind: Kind = "number"
    bold: bool = False
    is_detail: bool = False


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: Cell of the first column.
        cells: Cells of the other columns; where a reason is given, those of the last columns only.
        reason: Sentence in place of the cells that are not given.
        tone: Role of the row, which decides on colour and weight.
    """

    name: str
    cells: tuple[str, ...] = ()
    reason: str = ""
    tone: Literal["", "good", "bad", "faint", "total", "ours", "theirs"] = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table; a thing that could not be measured has notes only.

    Attributes:
        title: Heading.
        columns: Columns from left to right, that of the rows' names first.
        rows: Rows from top to bottom.
        notes: Sentences about this table's numbers, or why there are none.
        is_detail: Whether a terminal leaves the table out.
    """

    title: str
    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    is_detail: bool = False

    def cell(self, row: Row, head: str) -> str:
        """The cell of a whole row under a heading."""
        return (row.name, *row.cells)[[column.head for column in self.columns].index(head)]


def columns_of(heads: str) -> tuple[Column, ...]:
    """Columns written as a row of headings: `variant | of the limit: meter bold | runs: detail`.

    Args:
        heads: Headings between bars; after a colon the kind where it is not a number, `bold`, and `detail`.
    """
    found = []
    for part in heads.split("|"):
        head, _, rest = part.partition(":")
        words = rest.split()
        kind: Kind = next((kind for kind in _KINDS if kind in words), "number")
        found.append(Column(head.strip(), kind, "bold" in words, "detail" in words))
    return tuple(found)


def giga(value: float, digits: int = 4) -> str:
    """A number in units of 1e9."""
    return f"{value / 1e9:,.{digits}f}"


def mega(value: float, digits: int = 4) -> str:
    """A number in units of 1e6."""
    return f"{value / 1e6:,.{digits}f}"
