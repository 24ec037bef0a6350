from __future__ import annotations

import os
from pathlib import Path

import pytest

from spacecompile.runtime.threads import container_quota, usable_cores


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four processors of two cores, all of which this process may use."""
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    return tmp_path


def cores(machine: Path) -> int:
    return usable_cores(cpu_folder=machine, quota_file=machine / "cpu.max")


def test_hyper_threads_of_one_core_count_once(machine: Path) -> None:
    assert cores(machine) == 2


def test_processors_that_are_not_ours_do_not_count(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3}, raising=False)
    assert cores(machine) == 1


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("800000 100000", 2), ("nonsense", 2)],
)
def test_a_quota_is_kept(machine: Path, quota: str, expected: int) -> None:
    (machine / "cpu.max").write_text(quota)
    assert cores(machine) == expected


def test_without_a_topology_every_processor_counts(machine: Path) -> None:
    assert usable_cores(cpu_folder=machine / "nowhere", quota_file=machine / "cpu.max") == 4


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("content", "quota"),
    [("150000 100000", 1.5), ("max 100000", None), ("", None), ("100000 0", None)],
    ids=["one and a half", "no limit", "empty", "nonsense"],
)
def test_the_container_quota_is_read_as_processors(tmp_path: Path, content: str, quota: float | None) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert container_quota(quota_file=tmp_path / "cpu.max") == quota
