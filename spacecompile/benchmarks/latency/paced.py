"""Frames at a camera's rate: idle gaps between them, and deadlines that can be missed.

An answer's time counts from the moment when its frame was due, not from when the program got round to it: a slow
answer delays the next, and that wait is part of the next one's latency (G. Tene calls leaving it out "coordinated
omission").

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.latency.interleaved import Contestant
from spacecompile.benchmarks.latency.records import Paced
from spacecompile.benchmarks.latency.summary import summarise
from spacecompile.contract import Progress, no_progress
from spacecompile.errors import UsageError

PACED_S = 10.0
"""Of every contestant, unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Handled:
    """One frame, in seconds of one clock.

    Attributes:
        due_s: When the camera had it.
        start_s, end_s: When the work on it started and ended.
    """

    due_s: float
    start_s: float
    end_s: float


def check_rate(rate_hz: float | None, duration_s: float) -> None:
    """Refuse a rate or a duration that is none.

    Raises:
        UsageError: If one is not a finite number above zero.
    """
    if rate_hz is not None and not (np.isfinite(rate_hz) and rate_hz > 0):
        raise UsageError(f"rate is {rate_hz:g} Hz; give frames per second above zero with --rate.")
    if not (np.isfinite(duration_s) and duration_s > 0):
        raise UsageError(f"the paced run lasts {duration_s:g} s; give seconds above zero with --paced-seconds.")


def paced_frames(
    contestant: Contestant,
    frames_HWC: Sequence[NDArray[np.uint8]],
    rate_hz: float,
    *,
    duration_s: float = PACED_S,
    progress: Progress = no_progress,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Handled]:
    """Hand over frames at a rate, one after the other, none dropped; yields each as it is handled.

    Args:
        contestant: Contestant that is warm already.
        frames_HWC: Different frames, handed over in a circle.
        rate_hz: Frames per second.
        duration_s: Seconds for which frames come; at least one does.
        progress: Callback for progress.
        clock: Gives the time in seconds.
        sleep: Waits for a number of seconds.
    """
    num_frames = max(1, round(duration_s * rate_hz))
    begin_s = clock()
    for index in range(num_frames):
        due_s = begin_s + index / rate_hz
        # No busy waiting for the last microseconds: it would keep the core warm, which a camera does not.
        if (wait_s := due_s - clock()) > 0:
            sleep(wait_s)
        start_s = clock()
        contestant.run(frames_HWC[index % len(frames_HWC)])
        yield Handled(due_s=due_s, start_s=start_s, end_s=clock())
        progress(f"paced {contestant.name}", index + 1, num_frames)


def summarise_paced(handled: Sequence[Handled], rate_hz: float, percentiles: Sequence[float] = ()) -> Paced:
    """Deadlines and latencies of frames that came at a rate.

    Args:
        handled: In order, at least one.
        rate_hz: Frames per second.
        percentiles: Beside the usual ones.
    """
    period_s = 1 / rate_hz
    span_s = max(handled[-1].end_s, handled[-1].due_s + period_s) - handled[0].due_s
    return Paced(
        rate_hz=rate_hz,
        frames=len(handled),
        deadline_misses=sum(frame.end_s > frame.due_s + period_s for frame in handled),
        late_starts=sum(later.due_s < earlier.end_s for earlier, later in pairwise(handled)),
        busy_share=sum(frame.end_s - frame.start_s for frame in handled) / span_s,
        latency=summarise([1e3 * (frame.end_s - frame.due_s) for frame in handled], percentiles),
    )
