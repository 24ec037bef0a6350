"""Talking to the user: progress and talk on stderr, results on stdout. Only the command line imports this."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from spacecompile.errors import OutputError

stderr = Console(stderr=True, highlight=False)


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


def emit_json(value: Any, destination: str) -> None:
    """Write a JSON document to a file, or to stdout when the destination is `-`.

    Raises:
        OutputError: If the file can't be written.
    """
    text = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    if destination == "-":
        sys.stdout.write(text.decode())
        sys.stdout.flush()
        return
    try:
        Path(destination).write_bytes(text)
    except OSError as error:
        raise OutputError(f"can't write {destination}: {error.strerror}. Choose another file with --json.") from error
