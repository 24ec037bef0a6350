"""Frames per second with sessions side by side.

The sealed graph takes one frame, so a batch is several sessions at once: one that shares all threads answers a frame
soonest, one per core with a single thread each answers the most frames.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.latency.records import Throughput
from spacecompile.benchmarks.latency.variants import LoadSettings
from spacecompile.contract import Variant
from spacecompile.errors import UsageError
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.session import load

DURATION_S = 3.0


def session_counts(threads: int) -> tuple[int, ...]:
    """How many sessions side by side are measured: one, powers of two, and one per thread."""
    counts = [1]
    while counts[-1] * 2 <= threads:
        counts.append(counts[-1] * 2)
    return tuple(dict.fromkeys((*counts, threads)))


def measure_throughput(
    bundle: Bundle,
    variant: Variant,
    frames_HWC: Sequence[NDArray[np.uint8]],
    *,
    how: LoadSettings,
    sessions: int,
    duration_s: float = DURATION_S,
) -> Throughput:
    """Load so many sessions and let each answer frames back to back in a thread of its own.

    Args:
        bundle: Verified.
        variant: Variant of the bundle.
        frames_HWC: Different ones, in a circle.
        how: To load; its threads are shared out, at least one each.
        sessions: Side by side.
        duration_s: How long; a frame that is begun is finished and counted.
    """
    threads = max(1, how.threads // sessions)
    # Two sessions whose idle threads spin take each other's cores.
    shared = replace(how, threads=threads, spinning=how.spinning and sessions == 1)
    with ExitStack() as stack:
        opened = [stack.enter_context(load(bundle, **shared.arguments(variant), cache=False)) for _ in range(sessions)]
        for session in opened:
            session.warm_up()
        frames, seconds = run_side_by_side(
            [lambda frame_HWC, session=session: session(frame_HWC) for session in opened],  # type: ignore[misc]
            frames_HWC,
            duration_s=duration_s,
        )
    return Throughput(sessions=sessions, threads=threads, frames=frames, seconds=seconds, frames_per_s=frames / seconds)


def run_side_by_side(
    runs: Sequence[Callable[[NDArray[np.uint8]], object]],
    frames_HWC: Sequence[NDArray[np.uint8]],
    *,
    duration_s: float,
) -> tuple[int, float]:
    """Call every function again and again in a thread of its own.

    Returns:
        Number of frames answered, and the seconds from the common start until the last of them.

    Raises:
        UsageError: If a run fails; names the first reason.
    """
    stop, gate = threading.Event(), threading.Barrier(len(runs) + 1)
    counts, failures = [0] * len(runs), list[Exception]()

    def work(index: int) -> None:
        gate.wait()
        try:
            while not stop.is_set():
                runs[index](frames_HWC[counts[index] % len(frames_HWC)])
                counts[index] += 1
        except Exception as error:  # noqa: BLE001  it is raised again below, in the caller's thread
            failures.append(error)

    workers = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(runs))]
    for worker in workers:
        worker.start()
    gate.wait()
    start_s = time.perf_counter()
    try:
        stop.wait(duration_s)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    if failures:
        raise UsageError(f"sessions side by side failed: {failures[0]}") from failures[0]
    return sum(counts), time.perf_counter() - start_s
