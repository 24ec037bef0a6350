"""Talking to the user: progress and talk on stderr, results on stdout. Only the command line imports this."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from spacecompile.files import check_destination, write_file

stderr = Console(stderr=True, highlight=False)


@dataclass
class Stdout:
    """What the running command wrote to stdout.

    Attributes:
        has_document: Whether its JSON document is there: it is the only one, an error that comes later adds no second.
    """

    has_document: bool = False


stdout = Stdout()


def say(text: str) -> None:
    """Print one line for the user to stderr; rich markup allowed."""
    stderr.print(text)


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A progress callback `(step, done, total)` that draws one rich bar per step on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=stderr, transient=not stderr.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)

        yield report


def check_json(destination: str | None, *, force: bool) -> None:
    """Refuse a `--json` file before the work whose result it shall hold.

    Raises:
        OutputError: If it exists and `force` is off, or can't be written.
    """
    if destination not in (None, "-"):
        check_destination(Path(destination), flag="--json", force=force)


def emit_json(value: Any, destination: str) -> None:
    """Write a JSON document to a file, or to stdout when the destination is `-`.

    Raises:
        OutputError: If the file can't be written.
    """
    text = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    if destination == "-":
        stdout.has_document = True
        sys.stdout.write(text.decode())
        sys.stdout.flush()
        return
    write_file(Path(destination), text, remedy="Choose another file with --json.")
