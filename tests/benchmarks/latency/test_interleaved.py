from __future__ import annotations

import dataclasses
import gc
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from spacecompile.benchmarks.latency.interleaved import (
    LatencySettings,
    Recording,
    Scope,
    balanced_order,
    measure,
)
from spacecompile.errors import UsageError

FRAMES_HWC = [np.full((4, 4, 3), value, np.uint8) for value in range(3)]


def quick(rounds: int, *, warmup_rounds: int = 0) -> LatencySettings:
    """Exactly so many rounds, without pauses."""
    return LatencySettings(
        rounds_min=rounds,
        duration_s=0,
        warmup_rounds=warmup_rounds,
        warmup_s=0,
        settle_max_ms=0,
        priming_calls=0,
        block_calls=1,
    )


class Witness:
    """A contestant that writes down when it was called, on what, and whether garbage collection could interfere."""

    def __init__(self, name: str, calls: list[tuple[str, int]], *, every: int = 1, stop_at: int | None = None) -> None:
        self.name = name
        self.every = every
        self.collector_was_on: list[bool] = []
        self._calls = calls
        self._stop_at = stop_at

    def run(self, frame_HWC: NDArray[np.uint8]) -> None:
        if self._stop_at is not None and len(self.collector_was_on) == self._stop_at:
            raise KeyboardInterrupt
        self.collector_was_on.append(gc.isenabled())
        self._calls.append((self.name, int(frame_HWC[0, 0, 0])))

    def scopes_ms(self) -> Mapping[Scope, float]:
        return {"engine": 0.25, "device": 0.5} if self.name == "with-engine" else {}


def run_rounds(rounds: int, *names: str, warmup_rounds: int = 0) -> tuple[list[tuple[str, int]], Recording]:
    calls: list[tuple[str, int]] = []
    recording = Recording()
    contestants = [Witness(name, calls) for name in names]
    measure(contestants, FRAMES_HWC, quick(rounds, warmup_rounds=warmup_rounds), recording)
    return calls, recording


@pytest.mark.parametrize("contestants", range(1, 8))
def test_each_order_holds_everyone_once(contestants: int) -> None:
    for round_index in range(20):
        assert sorted(balanced_order(contestants, round_index)) == list(range(contestants))


@pytest.mark.parametrize("contestants", range(2, 8))
def test_over_a_cycle_everyone_follows_everyone_else_equally_often(contestants: int) -> None:
    cycle = contestants * (1 + contestants % 2)
    orders = [balanced_order(contestants, index) for index in range(cycle)]
    follows = Counter(pair for order in orders for pair in pairwise(order))
    assert len(follows) == contestants * (contestants - 1)
    assert len(set(follows.values())) == 1


@pytest.mark.parametrize("contestants", range(1, 8))
def test_over_a_cycle_everyone_takes_every_place(contestants: int) -> None:
    cycle = contestants * (1 + contestants % 2)
    orders = [balanced_order(contestants, index) for index in range(cycle)]
    for place in range(contestants):
        assert len(set(Counter(order[place] for order in orders).values())) == 1
        assert {order[place] for order in orders} == set(range(contestants))


def test_a_round_gives_everyone_the_same_frame_and_the_next_round_another_one() -> None:
    calls, recording = run_rounds(4, "a", "b", "c")
    frames_by_round = [{frame for _, frame in calls[start : start + 3]} for start in range(0, 12, 3)]
    assert frames_by_round == [{0}, {1}, {2}, {0}]
    assert recording.rounds == 4
    assert {name: list(by_round) for name, by_round in recording.app_ms.items()} == {
        name: [0, 1, 2, 3] for name in ("a", "b", "c")
    }


def test_a_slow_contestant_takes_part_in_every_nth_round_only() -> None:
    calls: list[tuple[str, int]] = []
    recording = Recording()
    contestants = [Witness("quick", calls), Witness("slow", calls, every=4)]
    measure(contestants, FRAMES_HWC, quick(9), recording)
    assert list(recording.app_ms["slow"]) == [0, 4, 8]
    assert list(recording.app_ms["quick"]) == list(range(9))


@pytest.mark.parametrize(("frames", "block_calls"), [(3, 1), (4, 1), (8, 2), (16, 3)])
def test_a_slow_contestant_meets_every_frame_equally_often_and_shares_them_with_the_others(
    frames: int, block_calls: int
) -> None:
    calls: list[tuple[str, int]] = []
    frames_HWC = [np.full((4, 4, 3), value, np.uint8) for value in range(frames)]
    contestants = [Witness("quick", calls), Witness("slow", calls, every=4)]
    settings = dataclasses.replace(quick(4 * frames), block_calls=block_calls)
    recording = Recording()
    measure(contestants, frames_HWC, settings, recording)
    seen = {name: [frame for caller, frame in calls if caller == name] for name in ("quick", "slow")}
    assert Counter(seen["slow"]) == dict.fromkeys(range(frames), block_calls)
    assert Counter(seen["quick"]) == dict.fromkeys(range(frames), 4 * block_calls)
    # Samples at the same key, of which ratios are made, are of the same frame.
    frame_of = {name: dict(zip(recording.app_ms[name], seen[name], strict=True)) for name in ("quick", "slow")}
    assert all(frame_of["quick"][key] == frame for key, frame in frame_of["slow"].items())


class Broken(Witness):
    """A contestant that raises at one of its calls."""

    def run(self, frame_HWC: NDArray[np.uint8]) -> None:
        if len(self.collector_was_on) == self._stop_at:
            raise MemoryError
        super().run(frame_HWC)


@pytest.mark.parametrize("fails_at", [0, 1, 4], ids=["warming up", "first round", "later round"])
def test_a_contestant_that_is_dropped_takes_its_samples_along_and_the_others_go_on(fails_at: int) -> None:
    calls: list[tuple[str, int]] = []
    recording = Recording()
    contestants = [Witness("a", calls), Broken("with-engine", calls, stop_at=fails_at), Witness("c", calls)]
    measure(contestants, FRAMES_HWC, quick(8, warmup_rounds=1), recording, expendable=["with-engine"])
    assert {name: type(error) for name, error in recording.dropped.items()} == {"with-engine": MemoryError}
    assert {name: list(samples) for name, samples in recording.app_ms.items()} == {
        name: list(range(8)) for name in ("a", "c")
    }
    assert not any(recording.within_ms.values())
    assert [name for name, _ in calls].count("with-engine") == fails_at


def test_the_error_of_one_that_is_not_expendable_ends_the_run_and_so_does_the_last_contestant_s() -> None:
    for expendable in ((), ("a",)):
        recording = Recording()
        with pytest.raises(MemoryError):
            measure([Broken("a", [], stop_at=2)], FRAMES_HWC, quick(8), recording, expendable=expendable)
        assert list(recording.app_ms["a"]) == [0, 1]
    assert gc.isenabled()


def test_warm_up_calls_everyone_and_records_nothing() -> None:
    calls, recording = run_rounds(1, "a", "b", warmup_rounds=2)
    assert Counter(name for name, _ in calls) == {"a": 3, "b": 3}
    assert recording.rounds == 1
    assert len(recording.app_ms["a"]) == 1


def test_a_recorded_call_follows_unrecorded_ones_of_the_same_contestant_on_the_frames_before() -> None:
    calls: list[tuple[str, int]] = []
    recording = Recording()
    settings = dataclasses.replace(quick(2), priming_calls=2)
    measure([Witness("a", calls), Witness("b", calls)], FRAMES_HWC, settings, recording)
    assert calls[:3] == [("a", 1), ("a", 2), ("a", 0)]
    assert {tuple(name for name, _ in calls[start : start + 3]) for start in range(0, 12, 3)} == {
        ("a",) * 3,
        ("b",) * 3,
    }
    assert [len(by_round) for by_round in recording.app_ms.values()] == [2, 2]


def test_a_block_records_several_calls_on_frames_that_every_contestant_shares() -> None:
    calls: list[tuple[str, int]] = []
    recording = Recording()
    settings = dataclasses.replace(quick(2), priming_calls=1, block_calls=2)
    measure([Witness("a", calls), Witness("b", calls)], FRAMES_HWC, settings, recording)
    assert calls[:6] == [("a", 2), ("a", 0), ("a", 1), ("b", 2), ("b", 0), ("b", 1)]
    assert [frame for name, frame in calls[6:] if name == "a"] == [1, 2, 0]
    assert {name: list(by_index) for name, by_index in recording.app_ms.items()} == {
        "a": [0, 1, 2, 3],
        "b": [0, 1, 2, 3],
    }


@pytest.mark.parametrize(("samples", "rounds", "calls"), [(1, 1, 1), (2, 1, 2), (3, 1, 3), (64, 22, 3), (662, 221, 3)])
def test_so_many_samples_are_measured_at_least(samples: int, rounds: int, calls: int) -> None:
    settings = LatencySettings.for_samples(samples)
    assert (settings.rounds_min, settings.block_calls) == (rounds, calls)
    assert settings.rounds_min * settings.block_calls >= samples


def test_only_who_can_tell_has_the_scopes_engine_and_device() -> None:
    _, recording = run_rounds(2, "with-engine", "without")
    assert recording.within_ms == {
        "engine": {"with-engine": {0: 0.25, 1: 0.25}},
        "device": {"with-engine": {0: 0.5, 1: 0.5}},
    }


def test_the_garbage_collector_is_off_during_a_call_and_on_again_afterwards() -> None:
    calls: list[tuple[str, int]] = []
    witness = Witness("a", calls)
    assert gc.isenabled()
    measure([witness], FRAMES_HWC, quick(3), Recording())
    assert witness.collector_was_on == [False] * 3
    assert gc.isenabled()


def test_an_interrupt_leaves_the_samples_that_were_measured() -> None:
    calls: list[tuple[str, int]] = []
    recording = Recording()
    contestants = [Witness("a", calls), Witness("b", calls, stop_at=2)]
    with pytest.raises(KeyboardInterrupt):
        measure(contestants, FRAMES_HWC, quick(10), recording)
    assert recording.rounds == 2
    assert list(recording.app_ms["b"]) == [0, 1]
    assert {0, 1} <= recording.app_ms["a"].keys() <= {0, 1, 2}
    assert gc.isenabled()


def test_progress_ends_at_its_total_and_never_goes_back() -> None:
    told: list[tuple[str, int, int]] = []
    settings = LatencySettings(rounds_min=5, duration_s=0.02, warmup_rounds=2, warmup_s=0.0, settle_max_ms=0.0)
    measure([Witness("a", [])], FRAMES_HWC, settings, Recording(), progress=lambda *step: told.append(step))
    for name in ("warm-up", "latency"):
        done = [step[1] for step in told if step[0] == name]
        assert done == sorted(done)
        assert done[-1] == next(step[2] for step in told if step[0] == name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds_min": 0},
        {"duration_s": -1.0},
        {"warmup_rounds": -1},
        {"priming_calls": -1},
        {"block_calls": 0},
        {"settle_max_ms": float("nan")},
        {"duration_s": np.inf},
    ],
    ids=str,
)
def test_settings_that_measure_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="Check --"):
        LatencySettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("contestants", "frames"), [(0, 1), (1, 0)])
def test_nothing_to_measure_is_an_error(contestants: int, frames: int) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        measure([Witness("a", [])][:contestants], FRAMES_HWC[:frames], LatencySettings(), Recording())
