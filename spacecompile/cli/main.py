"""Entry point: builds the typer app and turns every error into one sentence and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import suppress
from inspect import cleandoc
from itertools import pairwise
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from spacecompile._version import __version__
from spacecompile.cli import console
from spacecompile.cli.bench import bench
from spacecompile.cli.build import build
from spacecompile.cli.calibrate import calibrate
from spacecompile.cli.compare import compare
from spacecompile.cli.console import stderr
from spacecompile.cli.data import app as data_app
from spacecompile.cli.demo import demo
from spacecompile.cli.doctor import doctor
from spacecompile.cli.engine import engine
from spacecompile.cli.eval import eval_
from spacecompile.cli.inspect import inspect
from spacecompile.cli.own_process import keep_freed_memory
from spacecompile.cli.predict import predict
from spacecompile.cli.prove import prove
from spacecompile.cli.rebuild import rebuild
from spacecompile.cli.render import render
from spacecompile.cli.search import app as search_app
from spacecompile.cli.selftest import selftest
from spacecompile.cli.train import train
from spacecompile.cli.verify import verify
from spacecompile.errors import (
    EXIT_INTERRUPTED,
    EXIT_UNEXPECTED,
    InterruptedRunError,
    OutputError,
    SpacecompileError,
    UsageError,
    from_unexpected,
)
from spacecompile.record import printable

app = typer.Typer(
    name="spacecompile",
    help="Compile a trained multi-task perception network into a sealed bundle, prove it, run it, measure it.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"spacecompile {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="More talk; twice for debugging.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No talk, only results and errors.")] = False,
) -> None:
    """Set how much the tool says."""
    stderr.quiet = quiet
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


# In the order in which a user meets them.
for command in (
    doctor,
    render,
    train,
    calibrate,
    build,
    inspect,
    verify,
    selftest,
    engine,
    rebuild,
    predict,
    eval_,
    bench,
    compare,
    prove,
    demo,
):
    app.command(command.__name__.rstrip("_"))(command)
app.add_typer(data_app)
app.add_typer(search_app, name="search")


def _paragraphs(docstring: str | None) -> str:
    """A docstring whose paragraphs are one line each: typer keeps line breaks, which suit one width only."""
    return "\n\n".join(" ".join(text.split()) for text in cleandoc(docstring or "").split("\n\n"))


for group in (app, data_app, search_app):
    for registered in group.registered_commands:
        registered.help = _paragraphs(registered.callback.__doc__)


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words of the command line after the program's name; those of `sys.argv` when None.

    Returns:
        Exit code; `spacecompile.errors` lists them.
    """
    # For packages that import ONNX Runtime themselves; see `runtime/backends/onnxruntime_import.py`.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    given = sys.argv[1:] if arguments is None else arguments
    try:
        result = app(given, prog_name="spacecompile", standalone_mode=False)
    except (KeyboardInterrupt, Abort):
        result = EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_UNEXPECTED
    except Exception as error:  # noqa: BLE001  # whatever happens, a caller that was promised JSON gets it
        return _fail(given, error)
    # typer turns an interrupt into a returned exit code.
    if result == EXIT_INTERRUPTED:
        return _fail(given, InterruptedRunError("stopped; the same command can be given again."))
    return result if isinstance(result, int) else 0


def _usage_text(error: TyperException) -> str:
    """What was wrong with the command line, and where its help is."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "spacecompile"
    return f"{error.format_message()} See `{path} --help`."


def _fail(given: list[str], error: Exception) -> int:
    """Print the sentence, and a JSON document when stdout was promised one and has none yet."""
    known = _as_ours(error)
    kind, text, code = type(known).__name__, str(known), known.exit_code
    if code == EXIT_UNEXPECTED and known is not error:
        traceback.print_exception(error, file=sys.stderr)
        kind = type(error).__name__
        text = text.removeprefix(f"{kind}: ")
    stderr.quiet = False
    stderr.print(f"[bold red]{kind}:[/] ", end="")
    stderr.print(printable(text), markup=False, soft_wrap=True)
    is_promised = ("--json", "-") in pairwise(given) or "--json=-" in given
    if is_promised and not known.has_document:
        with suppress(OutputError, BrokenPipeError):  # the sentence above is all that can be said then
            console.emit_json({"error": {"kind": kind, "message": text, "exit_code": code}}, "-")
    return code


def _as_ours(error: Exception) -> SpacecompileError:
    """The error as one that a user can act on, or report."""
    if isinstance(error, SpacecompileError):
        return error
    if isinstance(error, TyperException):
        return UsageError(_usage_text(error))
    return from_unexpected(error)


def run() -> None:
    """Console script."""
    if next((word for word in sys.argv[1:] if not word.startswith("-")), "") == "train":
        keep_freed_memory()
    sys.exit(main())
