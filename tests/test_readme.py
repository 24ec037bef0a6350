"""The README: its numbers come from the committed results, its commands and files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from spacecompile.benchmarks.readme import BEGIN, END, results_block, with_results
from spacecompile.benchmarks.records import read_result
from spacecompile.cli.main import app
from spacecompile.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the README is read in a clone")


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def newest_results() -> Path:
    return sorted((ROOT / "spacecompile" / "benchmarks" / "results").glob("*.json"))[-1]


def test_the_tables_are_those_of_the_newest_results() -> None:
    block = results_block(read_result(newest_results().read_bytes()))
    assert with_results(readme(), block) == readme(), "run `make docs`"


def test_every_command_is_listed() -> None:
    listed = set(re.findall(r"^\| `([a-z]+)` \|", readme(), flags=re.MULTILINE))
    registered = {str(command.name) for command in app.registered_commands}
    assert listed == registered


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md"])
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(([\w./-]+)\)", text)) | set(
        re.findall(r"`((?:spacecompile|tests|checkpoints|docs)/[\w./-]+)`", text)
    )
    assert named
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(DataError, match="results: begin"):
        with_results("# nothing", "block")
    assert with_results(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\n\nnew\n\n{END}\nb"
