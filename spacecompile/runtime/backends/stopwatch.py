"""A stopwatch around any backend: what the engine alone takes, without the session around it.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from spacecompile.runtime.backends import Backend, GraphSignature, RawAnswer

NS_PER_MS = 1e6


class StopwatchBackend:
    """A backend that notes how long each run of the backend that it wraps took.

    Attributes:
        runs_ms: Milliseconds of every run so far, in order.
    """

    def __init__(self, backend: Backend) -> None:
        """Wrap a backend."""
        self._backend = backend
        self.runs_ms: list[float] = []

    @property
    def name(self) -> str:
        """Of the wrapped backend."""
        return self._backend.name

    @property
    def version(self) -> str:
        """Of the wrapped backend's engine."""
        return self._backend.version

    @property
    def signature(self) -> GraphSignature:
        """Of the graph."""
        return self._backend.signature

    def run(self, frame_HWC: NDArray[np.uint8]) -> RawAnswer:
        """Answer one frame; see `Backend.run`."""
        start_ns = time.perf_counter_ns()
        raw = self._backend.run(frame_HWC)
        self.runs_ms.append((time.perf_counter_ns() - start_ns) / NS_PER_MS)
        return raw

    def close(self) -> None:
        """Free the wrapped backend."""
        self._backend.close()
