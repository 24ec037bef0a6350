from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pynvml")

from spacecompile.benchmarks.latency.energy import Counters, RaplCounter, measure_energy, open_counters
from spacecompile.errors import DeviceError


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


def test_a_counter_that_can_not_be_read_any_more_says_how_to_go_without(zone: Callable[..., Path]) -> None:
    folder = zone("intel-rapl:0", "package-0", 1)
    counter = RaplCounter(folder)
    (folder / "energy_uj").unlink()
    with pytest.raises(DeviceError, match=r"RAPL package-0 can't be read.*--no-energy"):
        measure_energy(lambda _: None, [counter], frames_s=0, idle_s=0)


def test_packages_are_counted_and_neither_their_parts_nor_the_whole_machine_are_counted_twice(
    zone: Callable[..., Path], tmp_path: Path
) -> None:
    zone("intel-rapl:0", "package-0", 1)
    zone("intel-rapl:0:0", "core", 1)
    zone("intel-rapl:1", "package-1", 1)
    zone("intel-rapl:2", "psys", 1)
    counters = open_counters(tmp_path)
    assert [counter.name for counter in counters.cpu] == ["RAPL package-0", "RAPL package-1"]
    assert counters.why_no_cpu == ""


def test_a_counter_that_may_not_be_read_says_what_to_do(zone: Callable[..., Path], tmp_path: Path) -> None:
    folder = zone("intel-rapl:0", "package-0", 1)
    (folder / "energy_uj").unlink()
    (folder / "energy_uj").mkdir()  # root may read any file: a folder is refused to everyone
    counters = open_counters(tmp_path)
    assert counters.cpu == ()
    assert "energy_uj can't be read" in counters.why_no_cpu
    assert "chmod a+r" in counters.why_no_cpu


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


def test_a_variant_on_the_cpu_never_gets_the_energy_of_a_gpu() -> None:
    cpu, gpu = Meter(), Meter()
    both = Counters(cpu=(cpu,), gpu=(gpu,))
    assert both.of(on_gpu=False) == ((cpu,), "")
    assert both.of(on_gpu=True) == ((cpu, gpu), "")
    only_gpu = Counters(cpu=(), gpu=(gpu,), why_no_cpu="n/a: no RAPL")
    assert only_gpu.of(on_gpu=False) == ((), "n/a: no RAPL")
    assert only_gpu.of(on_gpu=True) == ((gpu,), "")
    counting, reason = Counters(cpu=(cpu,), gpu=()).of(on_gpu=True)
    assert counting == ()
    assert "NVML" in reason


def test_without_a_counter_the_note_says_so_and_nothing_is_guessed(tmp_path: Path) -> None:
    counting, reason = open_counters(tmp_path).of(on_gpu=False)
    assert counting == ()
    assert reason.startswith("n/a: ")
    assert "RAPL" in reason
