from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from spacecompile._version import __version__
from spacecompile.machine import environment
from spacecompile.machine.environment import read_environment


def test_the_environment_names_what_a_reader_needs() -> None:
    seen = read_environment(threads=2, load_average_start=0.5)
    assert seen.threads == 2
    assert seen.load_average_start == 0.5
    assert seen.cores >= 1
    assert seen.cpu
    assert seen.platform
    assert seen.versions["spacecompile"] == __version__
    assert seen.versions["numpy"] == np.__version__


@pytest.mark.parametrize("policy", [None, "PASSIVE"])
def test_how_pytorch_s_idle_threads_wait_is_part_of_it(policy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert read_environment(threads=1, load_average_start=None).openmp_wait_policy == policy


def test_the_commit_and_its_changes_come_from_git(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "--no-verify", "--message", "one")
    assert environment._source_tree(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "file").write_text("two")
    assert environment._source_tree(tmp_path) == (git("rev-parse", "HEAD"), True)


def test_outside_a_clone_there_is_no_commit(tmp_path: Path) -> None:
    assert environment._source_tree(tmp_path) == (None, None)


def test_the_cpu_model_is_read_from_the_kernel_s_table(tmp_path: Path) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nmodel name\t: Flight Processor 9\nflags\t: fma\n")
    assert environment._cpu_model(facts) == "Flight Processor 9"
    assert environment._cpu_model(tmp_path / "none")
