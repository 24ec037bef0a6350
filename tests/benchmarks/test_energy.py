from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pynvml")

from spacecompile.benchmarks.energy import RaplCounter, measure_energy, open_counters


@pytest.fixture
def zone(tmp_path: Path) -> Callable[..., Path]:
    """Make a power zone as the kernel shows it."""

    def make(name: str, label: str, energy_uj: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "name").write_text(f"{label}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        (folder / "max_energy_range_uj").write_text("1000000\n")
        return folder

    return make


def test_a_counter_that_starts_again_at_zero_goes_on(zone: Callable[..., Path]) -> None:
    folder = zone("intel-rapl:0", "package-0", 900_000)
    counter = RaplCounter(folder)
    (folder / "energy_uj").write_text("100000")
    assert counter.joules() == pytest.approx(0.2)
    (folder / "energy_uj").write_text("400000")
    assert counter.joules() == pytest.approx(0.5)
    assert counter.name == "RAPL package-0"


def test_packages_are_counted_and_their_parts_are_not_counted_twice(zone: Callable[..., Path], tmp_path: Path) -> None:
    zone("intel-rapl:0", "package-0", 1)
    zone("intel-rapl:0:0", "core", 1)
    zone("intel-rapl:1", "package-1", 1)
    counters, note = open_counters(tmp_path)
    assert [counter.name for counter in counters if counter.name.startswith("RAPL")] == [
        "RAPL package-0",
        "RAPL package-1",
    ]
    assert note == ""


class Meter:
    """A counter and a clock in one: so many watts, more while frames are answered."""

    name = "meter"

    def __init__(self) -> None:
        self.now_s = 0.0
        self.total_j = 0.0

    def joules(self) -> float:
        return self.total_j

    def pass_time(self, seconds: float, watts: float) -> None:
        self.now_s += seconds
        self.total_j += seconds * watts


def test_joules_per_frame_are_those_of_the_busy_time() -> None:
    meter = Meter()
    energy = measure_energy(
        lambda _: meter.pass_time(0.5, 30.0),
        [meter],
        frames_s=2.0,
        idle_s=1.0,
        clock=lambda: meter.now_s,
        sleep=lambda seconds: meter.pass_time(seconds, 10.0),
    )
    assert energy.frames == 4
    assert energy.joules_per_frame == pytest.approx(15.0)
    assert energy.watts == pytest.approx(30.0)
    assert energy.idle_watts == pytest.approx(10.0)


def test_without_a_counter_the_note_says_so_and_nothing_is_guessed(tmp_path: Path) -> None:
    counters, note = open_counters(tmp_path)
    if counters:
        pytest.skip("this machine has a GPU that counts")
    assert note.startswith("n/a: ")
    assert "RAPL" in note
