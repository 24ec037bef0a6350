from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("psutil")

from spacecompile.machine.records import MachineFacts
from spacecompile.machine.watch import MachineWatch, Moment, facts_between, machine_warnings, throttle_count

START = Moment(
    frequency_mhz=3000.0,
    temperature_c=50.0,
    throttle_count=7,
    total_s=1000.0,
    idle_s=600.0,
    stolen_s=10.0,
    own_s=20.0,
)
# 100 s later: 40 idle, 5 stolen, 30 our own, so that others took 25.
END = Moment(
    frequency_mhz=2400.0,
    temperature_c=80.0,
    throttle_count=9,
    total_s=1100.0,
    idle_s=640.0,
    stolen_s=15.0,
    own_s=50.0,
)


def test_shares_of_the_processor_time_add_up() -> None:
    facts = facts_between(START, END)
    assert facts.stolen_share == pytest.approx(0.05)
    assert facts.others_share == pytest.approx(0.25)
    assert facts.throttle_events == 2
    assert (facts.frequency_start_mhz, facts.frequency_end_mhz) == (3000.0, 2400.0)


def test_what_a_machine_does_not_tell_stays_unknown() -> None:
    silent = Moment(
        frequency_mhz=None,
        temperature_c=None,
        throttle_count=None,
        total_s=0.0,
        idle_s=0.0,
        stolen_s=None,
        own_s=0.0,
    )
    assert facts_between(silent, silent) == MachineFacts()


def test_counters_that_tick_coarsely_give_no_negative_share() -> None:
    end = Moment(
        frequency_mhz=None,
        temperature_c=None,
        throttle_count=None,
        total_s=1001.0,
        idle_s=600.5,
        stolen_s=10.0,
        own_s=20.51,
    )
    assert facts_between(START, end).others_share == 0.0


def test_the_reader_is_warned_of_heat_neighbours_and_other_programs() -> None:
    warnings = machine_warnings(facts_between(START, END))
    assert [word for word in ("temperature 2 times", "5%", "25%") if not any(word in text for text in warnings)] == []
    assert machine_warnings(MachineFacts(throttle_events=0, stolen_share=0.0, others_share=0.01)) == []
    assert machine_warnings(MachineFacts()) == []


def test_throttling_is_summed_over_the_cores(tmp_path: Path) -> None:
    for core, count in (("cpu0", 3), ("cpu11", 4)):
        folder = tmp_path / core / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")
    assert throttle_count(tmp_path) == 7
    assert throttle_count(tmp_path / "nothing") is None


def test_this_machine_tells_something() -> None:
    facts = MachineWatch().facts()
    for share in (facts.stolen_share, facts.others_share):
        assert share is None or 0 <= share <= 1
