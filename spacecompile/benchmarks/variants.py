"""The variants of a bundle as contestants: `session(frame)` as a user calls it, with a stopwatch around its engine.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.answers import Answered
from spacecompile.benchmarks.latency import NS_PER_MS
from spacecompile.benchmarks.records import ColdStart
from spacecompile.contract import Variant
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.backends import Backend, GraphSignature, RawAnswer
from spacecompile.runtime.backends.registry import choose_backend
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.session import Session, load

SLOW_EVERY = 4
"""A variant with test-time augmentation runs eight views: it takes part in every fourth round."""


class StopwatchBackend:
    """A backend that notes how long the backend that it wraps took for its last run."""

    def __init__(self, backend: Backend) -> None:
        """Wrap a backend."""
        self._backend = backend
        self.run_ns: int | None = None

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
        self.run_ns = time.perf_counter_ns() - start_ns
        return raw

    def close(self) -> None:
        """Free the wrapped backend."""
        self._backend.close()


class VariantContestant:
    """One variant, run through a session: scope `app` is the session's call, scope `engine` the backend's in it."""

    def __init__(self, name: str, session: Session, stopwatch: StopwatchBackend, *, every: int) -> None:
        """Take over a session that runs the stopwatch's backend; `open_variant` makes one."""
        self.name = name
        self.every = every
        self._session = session
        self._stopwatch = stopwatch

    @property
    def backend(self) -> str:
        """Name and version of the engine."""
        return f"{self._stopwatch.name} {self._stopwatch.version}"

    def run(self, frame_HWC: NDArray[np.uint8]) -> Answer:
        """Answer one frame."""
        return self._session(frame_HWC)

    def engine_ms(self) -> float | None:
        """Milliseconds of the bare backend run in the last call."""
        return None if self._stopwatch.run_ns is None else self._stopwatch.run_ns / NS_PER_MS

    def close(self) -> None:
        """Free the engine."""
        self._session.close()


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """How `runtime.session.load` is called; see there.

    Attributes:
        backend: Name of the engine, or `auto`.
        threads: That share one operator.
        spinning: Whether idle threads wait busily.
    """

    backend: str
    threads: int
    spinning: bool

    def arguments(self, variant: Variant) -> dict[str, Any]:
        """Keyword arguments of `load` for one variant."""
        return {"variant": variant.name, "tta": variant.tta, **asdict(self)}


def open_variant(
    bundle: Bundle, variant: Variant, frame_HWC: NDArray[np.uint8], *, how: LoadSettings
) -> tuple[VariantContestant, ColdStart]:
    """Load a variant twice: once as a user does, for its cold start, and once with the stopwatch.

    Args:
        bundle: Verified.
        variant: Of it.
        frame_HWC: For the first answer.
        how: To load it.

    Raises:
        SpacecompileError: As `load`.
    """
    start_ns = time.perf_counter_ns()
    with load(bundle.root, **how.arguments(variant)) as cold:
        loaded_ns = time.perf_counter_ns()
        cold(frame_HWC)
        answered_ns = time.perf_counter_ns()
        choice, rule = cold.choice, cold.rule
    entry, _ = choose_backend(how.backend, variant)
    engine = entry.factory()(
        bundle.read(variant.path), precision=variant.precision, threads=how.threads, spinning=how.spinning
    )
    stopwatch = StopwatchBackend(engine)
    session = Session(stopwatch, bundle.manifest.spec, choice=choice, rule=rule)
    every = 1 if variant.tta == "none" else SLOW_EVERY
    return (
        VariantContestant(variant.name, session, stopwatch, every=every),
        ColdStart(load_ms=(loaded_ns - start_ns) / NS_PER_MS, first_answer_ms=(answered_ns - start_ns) / NS_PER_MS),
    )


def answered_from_answer(answer: Answer) -> Answered:
    """A session's answer in the form that agreement and scores compare."""
    return Answered(class_probs_L=answer.class_probs, parts_HW=answer.parts_HW, box_xyxy=answer.box_xyxy)
