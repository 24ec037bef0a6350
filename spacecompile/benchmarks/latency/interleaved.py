"""Interleaved latency: in every round each contestant answers the same few frames in a row, in a balanced order.

Whatever drifts during a run (clocks, temperature, neighbours on the machine) then meets every contestant alike, and
the ratio of two contestants within a round is free of it. They take turns in short blocks and not call by call: the
first calls after another contestant find its data in the caches and its idle threads still spinning, so two of them are
not recorded.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import Progress, no_progress
from spacecompile.errors import UsageError

NS_PER_MS = 1e6

IDLE_WINDOW_MS = 3.0
IDLE_SHARE = 0.15
"""Processor time over wall time in such a window below which the process counts as idle; a look costs some of it."""


Scope: TypeAlias = Literal["engine", "device"]
"""Of a contestant's whole call, which is `app`: the graph alone, and the graph with the copies of frame and answer."""


class Contestant(Protocol):
    """Something that answers a frame. Its whole call is scope `app`: frame in memory to answer."""

    @property
    def name(self) -> str:
        """Key in the results, for example `fp32` or `plain-export`."""

    @property
    def every(self) -> int:
        """It takes part in every n-th round: a slow one must not eat the time of the others."""

    def run(self, frame_HWC: NDArray[np.uint8]) -> object:
        """Answer one frame completely; nothing is left to be computed later."""

    def scopes_ms(self) -> Mapping[Scope, float]:
        """What parts of the last call took, in milliseconds; without those that can't be told apart."""


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """How long to measure.

    Attributes:
        rounds_min: Rounds to measure at least, whatever they take.
        duration_s: Go on with rounds until this long.
        warmup_rounds, warmup_s: Unrecorded rounds before, until both are reached.
        settle_max_ms: Before every block, wait until the process is idle, at most so long: the last contestant's idle
            threads may still spin, for some 50 ms in ONNX Runtime, and would take a core from the next one.
        priming_calls: Unrecorded calls of the same contestant right before the recorded ones, on other frames: what is
            measured is a stream of frames, not a start from caches that hold the other contestants.
        block_calls: Recorded calls of a contestant in a row, each on another frame.
    """

    rounds_min: int = 22
    duration_s: float = 60.0
    warmup_rounds: int = 3
    warmup_s: float = 2.0
    settle_max_ms: float = 150.0
    priming_calls: int = 2
    block_calls: int = 3

    def __post_init__(self) -> None:
        """Check the settings once.

        Raises:
            UsageError: If a number is negative, or nothing would be measured.
        """
        numbers = (
            self.rounds_min,
            self.duration_s,
            self.warmup_rounds,
            self.warmup_s,
            self.settle_max_ms,
            self.priming_calls,
        )
        if not all(np.isfinite(number) and number >= 0 for number in numbers):
            raise UsageError(
                f"the latency settings hold a negative or infinite number: {numbers}. Check --duration, "
                "--samples and --warmup."
            )
        if self.rounds_min < 1 or self.block_calls < 1:
            raise UsageError("at least one sample must be measured. Check --samples.")

    @classmethod
    def for_samples(cls, samples: int, **further: float) -> LatencySettings:
        """So many recorded samples of every contestant at least, in whole blocks.

        Raises:
            UsageError: As the constructor.
        """
        block_calls = max(1, min(cls.block_calls, samples))
        return cls(rounds_min=-(-samples // block_calls), block_calls=block_calls, **further)  # type: ignore[arg-type]


@dataclass(kw_only=True)
class Recording:
    """Samples by contestant and place in the run, valid at any moment: an interrupted run keeps what it has.

    Attributes:
        app_ms: Scope `app`, by contestant's name, then by round times calls per block, plus the call's place in its
            block. The samples of two contestants at the same key are of the same frame.
        within_ms: By scope within a call, likewise.
        rounds: Number of rounds that were finished.
        dropped: Errors of contestants that the run went on without.
    """

    app_ms: dict[str, dict[int, float]] = field(default_factory=dict)
    within_ms: dict[Scope, dict[str, dict[int, float]]] = field(default_factory=lambda: {"engine": {}, "device": {}})
    rounds: int = 0
    dropped: dict[str, Exception] = field(default_factory=dict)

    def add(self, contestant: Contestant, index: int, app_ms: float) -> None:
        """Store one call."""
        self.app_ms.setdefault(contestant.name, {})[index] = app_ms
        for scope, took_ms in contestant.scopes_ms().items():
            self.within_ms[scope].setdefault(contestant.name, {})[index] = took_ms

    def forget(self, name: str) -> None:
        """Take the samples of one contestant out."""
        for by_name in (self.app_ms, *self.within_ms.values()):
            by_name.pop(name, None)


@dataclass(frozen=True, kw_only=True)
class _Field:
    """Who runs, in the end without those that raised and were dropped.

    Attributes:
        running: By their places in the balanced order.
        expendable: Names of those that the run goes on without when they raise.
        recording: Recording that forgets who is dropped: half a run is no measure beside whole ones.
    """

    running: list[Contestant]
    expendable: Collection[str]
    recording: Recording

    @contextmanager
    def guarding(self, contestant: Contestant) -> Iterator[None]:
        """Run a contestant's calls; the error of the last one left is everybody's."""
        try:
            yield
        except Exception as error:
            if len(self.running) == 1 or contestant.name not in self.expendable:
                raise
            self.running.remove(contestant)
            # Without its frames, which hold whatever the contestant had on the GPU.
            self.recording.dropped[contestant.name] = error.with_traceback(None)
            self.recording.forget(contestant.name)


def balanced_order(num_contestants: int, round_index: int) -> list[int]:
    """In which order the contestants run in a round.

    Rows of a Williams design: over a cycle every contestant takes every place, and follows every other equally often,
    so that what one leaves behind in caches and clocks is spread evenly. A plain rotation would keep the neighbours.
    Source: E. J. Williams, Australian Journal of Scientific Research A 2 (1949), 149-168.
    """
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(num_contestants)]
    order = [(step + round_index) % num_contestants for step in zigzag]
    # With an odd number a second, mirrored square is needed for the balance.
    mirrored = num_contestants % 2 == 1 and (round_index // num_contestants) % 2 == 1
    return order[::-1] if mirrored else order


def measure(
    contestants: Sequence[Contestant],
    frames_HWC: Sequence[NDArray[np.uint8]],
    settings: LatencySettings,
    recording: Recording,
    *,
    expendable: Collection[str] = (),
    progress: Progress = no_progress,
) -> None:
    """Warm up, then measure rounds into `recording`.

    Python's garbage collector is off during a call and runs between rounds, as in `timeit`; no sample is left out.

    Args:
        contestants: With different names.
        frames_HWC: In turn; see `frame_turn`.
        settings: How long.
        recording: Is filled round by round; still valid after a KeyboardInterrupt, which is passed on.
        expendable: Names of contestants that the run goes on without when they raise; they lose their samples too.
        progress: Told the percent done.

    Raises:
        UsageError: If there is no contestant or no frame.
        Exception: Whatever a contestant raises that is not expendable, or that is the last one.
    """
    if not contestants or not frames_HWC:
        raise UsageError(f"nothing to measure: {len(contestants)} contestants and {len(frames_HWC)} frames.")
    starters = _Field(running=list(contestants), expendable=expendable, recording=recording)
    _warm_up(starters, frames_HWC, settings, progress)
    with _collector_kept_away() as collect:
        _rounds(starters, frames_HWC, settings, recording, collect=collect, progress=progress)


def _rounds(
    starters: _Field,
    frames_HWC: Sequence[NDArray[np.uint8]],
    settings: LatencySettings,
    recording: Recording,
    *,
    collect: Callable[[], object],
    progress: Progress,
) -> None:
    start_s = time.perf_counter()
    while recording.rounds < settings.rounds_min or time.perf_counter() - start_s < settings.duration_s:
        collect()
        _round(starters, frames_HWC, settings, recording)
        elapsed = (time.perf_counter() - start_s) / settings.duration_s if settings.duration_s else 1.0
        progress("latency", int(100 * min(elapsed, recording.rounds / settings.rounds_min, 1.0)), 100)
    # The clock went on after the last report.
    progress("latency", 100, 100)


def _warm_up(
    starters: _Field,
    frames_HWC: Sequence[NDArray[np.uint8]],
    settings: LatencySettings,
    progress: Progress,
) -> None:
    start_s = time.perf_counter()
    done = 0
    while done < settings.warmup_rounds or time.perf_counter() - start_s < settings.warmup_s:
        for contestant in tuple(starters.running):
            with starters.guarding(contestant):
                contestant.run(frames_HWC[done % len(frames_HWC)])
        done += 1
        progress("warm-up", min(done, settings.warmup_rounds), settings.warmup_rounds)


def _round(
    starters: _Field,
    frames_HWC: Sequence[NDArray[np.uint8]],
    settings: LatencySettings,
    recording: Recording,
) -> None:
    """Measure one round. A contestant that is interrupted keeps the samples before; ratios use what both have."""
    index = recording.rounds
    contestants = tuple(starters.running)
    slowest = max(contestant.every for contestant in contestants)
    first_frame = frame_turn(index, slowest) * settings.block_calls
    for place in balanced_order(len(contestants), index):
        if index % contestants[place].every == 0:
            settle(settings.settle_max_ms)
            with starters.guarding(contestants[place]):
                _block(contestants[place], frames_HWC, settings, recording, first_frame=first_frame)
    recording.rounds += 1


def frame_turn(round_index: int, slowest_every: int) -> int:
    """Which turn of the frames a round takes.

    With one turn per round, whoever takes part in every n-th round only would meet the same few frames again and again
    where n and their number have a factor in common. So the turn goes on by one from one of its rounds to the next, and
    everyone in a round still answers the same frames.

    Args:
        round_index: From 0.
        slowest_every: The largest n of all contestants.
    """
    return sum(divmod(round_index, slowest_every))


def _block(
    contestant: Contestant,
    frames_HWC: Sequence[NDArray[np.uint8]],
    settings: LatencySettings,
    recording: Recording,
    *,
    first_frame: int,
) -> None:
    for call in range(-settings.priming_calls, 0):
        contestant.run(frames_HWC[(first_frame + call) % len(frames_HWC)])
    first_sample = recording.rounds * settings.block_calls
    for call in range(settings.block_calls):
        frame_HWC = frames_HWC[(first_frame + call) % len(frames_HWC)]
        start_ns = time.perf_counter_ns()
        contestant.run(frame_HWC)
        recording.add(contestant, first_sample + call, (time.perf_counter_ns() - start_ns) / NS_PER_MS)


def settle(limit_ms: float) -> None:
    """Wait until no thread of this process is busy, or the time is up."""
    start_ns = time.perf_counter_ns()
    while time.perf_counter_ns() - start_ns < limit_ms * NS_PER_MS:
        window_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
        time.sleep(IDLE_WINDOW_MS / 1e3)
        window_ns, cpu_ns = time.perf_counter_ns() - window_ns, time.process_time_ns() - cpu_ns
        if cpu_ns < IDLE_SHARE * window_ns:
            return


@contextmanager
def _collector_kept_away() -> Iterator[Callable[[], object]]:
    """Python's garbage collector off until the end of the block; yields what collects between two rounds."""
    was_enabled = gc.isenabled()
    gc.collect()
    # What is there now stays: with torch loaded, to look through it would take longer than the round.
    gc.freeze()
    gc.disable()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
