"""Talking to the user: progress and talk on stderr, results on stdout. Only the command line imports this."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from spacecompile.errors import OutputError
from spacecompile.files import check_destination, write_file
from spacecompile.record import json_bytes, printable

stderr = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print one line for the user to stderr; rich markup allowed."""
    stderr.print(printable(text))


def say_line(text: str) -> None:
    """As `say`, without wrapping: for hashes, and for long lines, since a log file has no width to wrap at."""
    stderr.print(printable(text), soft_wrap=True)


def say_plain(text: str) -> None:
    """As `say_line`, without markup: for names and paths as they are."""
    stderr.print(printable(text), markup=False, soft_wrap=True)


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


def check_json(destination: str | None, *, force: bool, output: Path | None = None, bundle: Path | None = None) -> None:
    """Refuse a `--json` file before the work whose result it shall hold.

    Args:
        destination: Value of `--json`; None and `-` are always right.
        force: Whether a file that is there may be replaced.
        output: The command's main product, where it has one: `--force` would replace that too, so it is no remedy.
        bundle: Folder of the bundle that the command reads, which another file would spoil.

    Raises:
        OutputError: If the file exists and `force` is off, can't be written, or lies in the output.
    """
    if destination is None or destination == "-":
        return
    path = Path(destination)
    remedy = "add --force to replace it" if output is None else "remove it first"
    if output is not None and output.absolute() in (path.absolute(), *path.absolute().parents):
        raise OutputError(
            f"--json {path} lies in the output {output}, whose files it must not mix with. Choose another."
        )
    check_destination(path, flag="--json", force=force, remedy=remedy, bundle=bundle)


def emit_json(value: Any, destination: str) -> None:
    """Write a JSON document to a file, or to stdout when the destination is `-`.

    Raises:
        OutputError: If the file can't be written.
    """
    content = json_bytes(value)
    if destination == "-":
        print_result(content.decode())
    else:
        write_file(Path(destination), content, remedy="Choose another file with --json.")


def print_result(text: str) -> None:
    """Write a result to stdout, now.

    Raises:
        OutputError: If stdout is full.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"can't write to stdout: {error.strerror}. Check where the output goes.") from error


def quoted(path: Path | str) -> str:
    """A path as a word of a command to paste, for rich."""
    return escape(shlex.quote(str(path)))
