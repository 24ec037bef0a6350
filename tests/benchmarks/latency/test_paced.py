from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from spacecompile.benchmarks.latency.interleaved import Scope
from spacecompile.benchmarks.latency.paced import Handled, check_rate, paced_frames, summarise_paced
from spacecompile.errors import UsageError

FRAMES_HWC = [np.full((2, 2, 3), value, np.uint8) for value in range(3)]


class Worker:
    """A contestant with a clock of its own that takes a given time for each frame."""

    name = "worker"
    every = 1

    def __init__(self, work_s: list[float]) -> None:
        self.now_s = 100.0
        self.seen: list[int] = []
        self._work_s = work_s

    def run(self, frame_HWC: NDArray[np.uint8]) -> None:
        self.now_s += self._work_s[len(self.seen)]
        self.seen.append(int(frame_HWC[0, 0, 0]))

    def scopes_ms(self) -> Mapping[Scope, float]:
        return {}

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def handle(work_s: list[float], rate_hz: float) -> tuple[Worker, list[Handled]]:
    worker = Worker(work_s)
    handled = paced_frames(
        worker,
        FRAMES_HWC,
        rate_hz,
        duration_s=len(work_s) / rate_hz,
        clock=lambda: worker.now_s,
        sleep=worker.sleep,
    )
    return worker, list(handled)


def test_frames_come_at_the_rate_and_one_by_one() -> None:
    worker, handled = handle([0.02] * 5, rate_hz=10)
    assert worker.seen == [0, 1, 2, 0, 1]
    assert [frame.due_s for frame in handled] == pytest.approx([100.0, 100.1, 100.2, 100.3, 100.4])
    paced = summarise_paced(handled, 10)
    assert (paced.frames, paced.deadline_misses, paced.late_starts) == (5, 0, 0)
    assert paced.busy_share == pytest.approx(0.2)
    assert paced.latency.max_ms == pytest.approx(20)


def test_a_slow_answer_delays_the_next_one_and_its_wait_counts() -> None:
    # The second takes 250 ms: it misses, and so do the third and the fourth, which had to wait.
    _, handled = handle([0.05, 0.25, 0.05, 0.05, 0.05], rate_hz=10)
    paced = summarise_paced(handled, 10)
    assert [1e3 * (frame.end_s - frame.due_s) for frame in handled] == pytest.approx([50, 250, 200, 150, 100])
    assert paced.late_starts == 3
    assert paced.deadline_misses >= 3
    assert paced.latency.max_ms == pytest.approx(250)


def test_an_interrupt_keeps_the_frames_that_were_handled() -> None:
    worker, handled = Worker([0.01, 0.01]), list[Handled]()
    with pytest.raises(IndexError):
        handled.extend(
            paced_frames(worker, FRAMES_HWC, 10, duration_s=1, clock=lambda: worker.now_s, sleep=worker.sleep)
        )
    assert summarise_paced(handled, 10).frames == 2


@pytest.mark.parametrize(
    ("rate_hz", "duration_s", "flag"),
    [(0.0, 1.0, "--rate"), (-5.0, 1.0, "--rate"), (float("nan"), 1.0, "--rate"), (1.0, 0.0, "--paced-seconds")],
)
def test_a_rate_that_is_none_is_refused(rate_hz: float, duration_s: float, flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        check_rate(rate_hz, duration_s)
