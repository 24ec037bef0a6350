from __future__ import annotations

from pathlib import Path

import pytest

from spacecompile.child_process import run_child

CHILD = """
import sys

EARLY = set(sys.modules)
from spacecompile.child_process import report

def main(arguments):
    sys.stdout.write("a library says something without ending its line")
    report({"arguments": arguments, "early": sorted({"json", "numpy", "subprocess"} & EARLY)})
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "some_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "some_child"


def test_the_answer_is_found_behind_what_a_library_says_and_nothing_is_imported_early(child: str) -> None:
    assert run_child(child, ["one", "two words"], limit_s=60) == {"arguments": ["one", "two words"], "early": []}


def test_an_isolated_child_looks_nowhere_else(child: str) -> None:
    assert (
        run_child(child, limit_s=60, isolated=True) == f"exits with 1: ModuleNotFoundError: No module named '{child}'"
    )
