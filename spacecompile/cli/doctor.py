"""`spacecompile doctor`: what works on this machine, and the command for what does not."""

from __future__ import annotations

import io
import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spacecompile.cli import console
from spacecompile.errors import MissingPartError
from spacecompile.record import printable

if TYPE_CHECKING:
    from spacecompile.machine.doctor import Checkup

_COLORS = {"ok": "green", "note": "yellow", "missing": "dim", "broken": "bold red"}
_FILE_WIDTH = 120
_NEXT = {
    "run": "spacecompile selftest BUNDLE",
    "build": "spacecompile build CKPT -o net.spacepkg",
    "train": "spacecompile train --data DIR -o DIR",
    "tensorrt": "spacecompile engine BUNDLE -o plans --engine tensorrt",
    "tensorrt-rtx": "spacecompile engine BUNDLE -o plans --engine tensorrt-rtx",
    "bench": "spacecompile bench BUNDLE --report bench.html",
}


def doctor(
    *,
    purpose: Annotated[
        str | None,
        typer.Option("--for", help="Check only what one of run, build, train, bench, tensorrt or tensorrt-rtx needs."),
    ] = None,
    json: Annotated[str | None, typer.Option("--json", help="Write the rows to FILE, or - for stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the JSON file.")] = False,
) -> None:
    """Say what works on this machine, part by part, with the command for each part that doesn't.

    Backends run a small graph and extras are imported, each in a process of its own. Exits with 3 when the base
    install, or what --for needs, does not work.

    Example: spacecompile doctor --for build
    """
    from spacecompile.machine.doctor import examine, require_working

    console.check_json(json, force=force)
    with console.progress_bar() as progress:
        checkup = examine(purpose, progress=progress)
    try:
        require_working(checkup)
        error = None
    except MissingPartError as failing:
        error = failing
    if json != "-":
        console.print_result(printable(_table_text(checkup) + _remedies_text(checkup)))
    if json is not None:
        console.emit_json(_document(checkup, error), json)
    if error is not None:
        error.has_document = json == "-"
        raise error
    console.say(f"{'the base install' if purpose is None else escape(purpose)} works here")
    console.say(f"next: [bold]{escape(_NEXT.get(purpose or 'build', _NEXT['build']))}[/]")


def _table_text(checkup: Checkup) -> str:
    """The rows as a table: coloured on a terminal, plain and of a fixed width in a file."""
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else _FILE_WIDTH
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("part", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold")
    group = checkup.checks[0].group
    for check in checkup.checks:
        if check.group != group:
            table.add_row()
            group = check.group
        color = "bold red" if check.fails else _COLORS[check.state]
        table.add_row(check.name, f"[{color}]{check.state}[/]", escape(check.found))
    stream = io.StringIO()
    Console(file=stream, force_terminal=is_terminal, width=width, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _remedies_text(checkup: Checkup) -> str:
    """The commands, unwrapped, to paste."""
    remedies = [f"  {check.name}: {check.remedy}" for check in checkup.checks if check.remedy]
    return "\n".join(["", "to add or mend", *remedies, ""]) if remedies else ""


def _document(checkup: Checkup, error: MissingPartError | None) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(checkup)
    if error is not None:
        document["error"] = {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
    return document
