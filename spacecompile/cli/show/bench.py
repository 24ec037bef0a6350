"""The tables of `spacecompile bench` on stderr."""

from __future__ import annotations

from msgspec import UNSET
from rich.markup import escape

from spacecompile.benchmarks.report.tables import tables_of
from spacecompile.benchmarks.report.wording import engine_lines
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.cli import console
from spacecompile.cli.show.layout import say_table


def say_result(result: BenchResult) -> None:
    """Print every section that was measured, and what to know about it."""
    for name, table in tables_of(result).items():
        if not table.is_detail:
            say_table(table)
        if name == "latency":
            _say_each(dict(engine_lines(result)), "{} ran on {}")
    _say_each({} if result.skipped is UNSET else result.skipped, "{} is missing: {}")
    _say_each({} if result.missing_backends is UNSET else result.missing_backends, "backend {} is missing: {}")
    notes = {} if result.peers is UNSET else {name: peer.note for name, peer in result.peers.items() if peer.note}
    _say_each(notes, "{}, unlike the variants: {}")
    for warning in result.warnings:
        console.say(f"[yellow]note[/] {escape(warning)}")


def _say_each(texts: dict[str, str], sentence: str) -> None:
    for name, text in texts.items():
        console.say(escape(sentence.format(name, text)))
    if texts:
        console.say("")
