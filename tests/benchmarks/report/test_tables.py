"""The rows of a result: each is whole, and a terminal of 80 characters shows them all."""

from __future__ import annotations

import subprocess
import sys

import pytest
from msgspec import UNSET
from msgspec.structs import replace
from rich.console import Console

from spacecompile.benchmarks.report.tables import tables_of
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.cli import console
from spacecompile.cli.show.bench import say_result


def test_every_row_has_a_cell_or_a_reason_for_each_column(limited_result: BenchResult) -> None:
    for name, table in tables_of(limited_result).items():
        for row in table.rows:
            cells = 1 + len(row.cells)
            assert cells < len(table.columns) if row.reason else cells == len(table.columns), (name, row)


def test_a_terminal_shows_every_number_uncut(
    limited_result: BenchResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "stderr", Console(stderr=True, width=80, highlight=False))
    say_result(limited_result)
    said = capsys.readouterr().err
    # A layer's name may be of any length.
    assert [line for line in said.splitlines() if "…" in line and "decoder_conv" not in line] == []
    words = set(said.replace("%", " ").split())
    for table in tables_of(limited_result).values():
        shown = [index for index, column in enumerate(table.columns[1:]) if not column.is_detail]
        whole = [] if table.is_detail else [row for row in table.rows if not row.reason]
        cells = [row.cells[index].replace("%", " ") for row in whole for index in shown]
        assert not [cell for cell in cells if not set(cell.split()) <= words], table.title


def test_what_keeps_many_peers_away_is_said_once(whole_result: BenchResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert whole_result.peers is not UNSET
    absent = {
        name: replace(peer, ratios={}, agreement=UNSET, missing="no torch") for name, peer in whole_result.peers.items()
    }
    say_result(replace(whole_result, peers=absent))
    assert capsys.readouterr().err.count("missing: no torch") == 1


def test_tables_need_no_extra() -> None:
    code = (
        "import sys; import spacecompile.benchmarks.report.tables; "
        "print(sorted({'jinja2', 'matplotlib', 'rich', 'torch', 'onnx'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
