"""A stopwatch around any backend: what the engine alone takes, without the session around it.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from spacecompile.runtime.backend import Backend, RawAnswer, SynchronousBackend

_NS_PER_MS = 1e6


class StopwatchBackend(SynchronousBackend):
    """A backend that notes how long each run of the backend that it wraps took. It answers at once, also on a GPU.

    On a GPU its own clock counts, if the backend was made to take the time of its runs (`GpuOptions.timed`).

    Attributes:
        runs_ms: Milliseconds of every run so far, in order: of the graph alone on a GPU that took the time, else of
            the whole call.
        with_copies_ms: Milliseconds of the same runs with the copies of frame and answer.
    """

    def __init__(self, backend: Backend) -> None:
        """Wrap a backend."""
        self.name, self.version, self.signature = backend.name, backend.version, backend.signature
        self._backend = backend
        self.runs_ms: list[float] = []
        self.with_copies_ms: list[float] = []

    def run(self, frame_HWC: NDArray[np.uint8]) -> RawAnswer:
        """Answer one frame; see `Backend.run`."""
        start_ns = time.perf_counter_ns()
        raw = self._backend.run(frame_HWC)
        call_ms = (time.perf_counter_ns() - start_ns) / _NS_PER_MS
        times = self._backend.last_times
        self.runs_ms.append(times.engine_ms if times else call_ms)
        self.with_copies_ms.append(times.device_ms if times else call_ms)
        return raw

    def close(self) -> None:
        """Free the wrapped backend."""
        self._backend.close()
