from __future__ import annotations

from pathlib import Path

import pytest

from spacecompile.machine.probe import run_probe
from spacecompile.runtime.backends.registry import BACKENDS


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the probe finds as the library `odd`."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "odd.py"


@pytest.mark.parametrize(
    "name", [entry.name for entry in BACKENDS if entry.missing() is None and entry.suffix == ".onnx"]
)
def test_every_backend_that_is_here_answers_the_small_graph(name: str) -> None:
    result = run_probe(["backend", name])
    assert result.problem == ""
    assert result.found.startswith(name)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        pytest.param("import ctypes; ctypes.string_at(0)", "crashes with SIGSEGV", id="crash"),
        pytest.param("import os; os.abort()", "crashes with SIGABRT", id="abort"),
        pytest.param("import os; os._exit(7)", "exits with 7: it said nothing", id="exit"),
        pytest.param("import sys; sys.exit('no licence')", "exits with 1: no licence", id="exit with a word"),
        pytest.param("import nowhere_to_be_found", "ModuleNotFoundError: No module named", id="part missing"),
        pytest.param("raise OSError('libodd.so: not found\\nlong story')", "OSError: libodd.so: not found", id="error"),
    ],
)
def test_how_a_library_fails_is_said_in_one_line(library: Path, source: str, problem: str) -> None:
    library.write_text(source)
    result = run_probe(["import", "odd"])
    assert result.found == ""
    assert result.problem.startswith(problem)
    assert "\n" not in result.problem


def test_a_library_that_hangs_is_stopped(library: Path) -> None:
    library.write_text("import time; time.sleep(600)")
    assert run_probe(["import", "odd"], limit_s=3).problem == "did not end within 3 s"


def test_a_library_that_talks_and_crashes_on_the_way_out_still_works(library: Path) -> None:
    library.write_text(
        "import atexit, os, sys; print('{\"hello\": 1}'); sys.stderr.write('W: odd')\n"
        "atexit.register(os.abort); __version__ = '1.2'"
    )
    result = run_probe(["import", "odd"])
    assert (result.found, result.problem) == ("odd 1.2", "")


def test_a_file_in_the_current_folder_does_not_pass_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(tmp_path)
    assert run_probe(["import", "numpy"]).found.startswith("numpy ")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_trying_a_backend_leaves_nothing_behind(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(backend)
    for variable in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert "answers a small graph rightly" in run_probe(["backend", backend]).found
    assert list(tmp_path.iterdir()) == []
