"""`train` begins anew with a malloc that keeps freed memory; every other command runs as it was started."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from spacecompile.cli import main
from spacecompile.cli import own_process as openmp

IS_GLIBC = platform.libc_ver()[0] == "glibc"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines that a process was replaced by."""
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: calls.append(arguments))
    monkeypatch.setattr(main, "main", lambda: 0)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "spacecompile", "-q", "train", "--data", "train"])
    return calls


@pytest.mark.skipif(not IS_GLIBC, reason="not glibc")
@pytest.mark.parametrize("arguments", [["-q", "train"], ["train", "--help"]])
def test_train_starts_again_with_the_very_same_words(
    started: list[list[str]], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["spacecompile", *arguments])
    with pytest.raises(SystemExit):
        main.run()
    assert started == [[sys.executable, "-m", "spacecompile", "-q", "train", "--data", "train"]]
    assert "glibc.malloc.trim_threshold=" in os.environ.pop("GLIBC_TUNABLES")


@pytest.mark.parametrize("arguments", [["eval", "train"], ["--help"], [], ["build", "x.pt"]])
def test_other_commands_do_not(started: list[list[str]], arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["spacecompile", *arguments])
    with pytest.raises(SystemExit):
        main.run()
    assert started == []


def test_a_malloc_that_the_user_tuned_is_left_alone(started: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    openmp.keep_freed_memory()
    assert started == []


def test_another_libc_is_left_alone(started: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    openmp.keep_freed_memory()
    assert started == []


def test_the_restarted_process_answers_as_any_other() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    script = (
        "import atexit, os, sys; from spacecompile.cli.main import run; sys.argv = ['spacecompile', 'train', '-h'];"
        "atexit.register(lambda: print(os.getpid(), os.environ.get('GLIBC_TUNABLES'))); print(os.getpid()); run()"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    first, *_, last = done.stdout.splitlines()
    assert last.split(" ", 1)[0] == first  # the same process, begun twice
    assert ("hugetlb" in last) == IS_GLIBC
    assert done.stdout.count("Usage: spacecompile train") == 1
