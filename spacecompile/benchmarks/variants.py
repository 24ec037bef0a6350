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
from spacecompile.benchmarks.records import ColdStart, VariantEngine
from spacecompile.contract import Variant
from spacecompile.errors import UsageError
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.backends.registry import choose_backend
from spacecompile.runtime.backends.stopwatch import StopwatchBackend
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.choice import gpu_options
from spacecompile.runtime.session import Session, load

SLOW_EVERY = 4
"""A variant with test-time augmentation runs eight views: it takes part in every fourth round."""


class VariantContestant:
    """One variant, run through a session: scope `app` is the session's call, scope `engine` the backend's in it."""

    def __init__(self, name: str, session: Session, stopwatch: StopwatchBackend, *, every: int) -> None:
        """Take over a session that runs the stopwatch's backend; `open_variant` makes one."""
        self.name = name
        self.every = every
        self._session = session
        self._stopwatch = stopwatch

    @property
    def engine(self) -> VariantEngine:
        """What runs it, and why."""
        choice = self._session.choice
        return VariantEngine(name=choice.backend, version=choice.backend_version, reason=choice.backend_reason)

    def run(self, frame_HWC: NDArray[np.uint8]) -> Answer:
        """Answer one frame."""
        return self._session(frame_HWC)

    def engine_ms(self) -> float | None:
        """Milliseconds of the bare backend run in the last call."""
        return self._stopwatch.runs_ms[-1] if self._stopwatch.runs_ms else None

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
    """Load a variant twice: once for its cold start, and once with the stopwatch.

    Neither takes a compiled model from the user's cache folder: whether there is one is chance.

    Args:
        bundle: Verified.
        variant: Of it.
        frame_HWC: For the first answer.
        how: To load it.

    Raises:
        UsageError: If the engine that is asked for by name does not run the variant, or is not certified for it.
        MissingPartError: If this machine lacks the engine or what the precision needs.
        SpacecompileError: Else as `load`.
    """
    entry, _ = choose_backend(how.backend, variant)
    if entry.name not in variant.certified:
        raise UsageError(
            f"variant {variant.name} is not certified on {entry.name}, only on {', '.join(variant.certified) or 'none'}"
            ". Choose another variant or --backend."
        )
    start_ns = time.perf_counter_ns()
    with load(bundle.root, **how.arguments(variant), cache=False) as cold:
        loaded_ns = time.perf_counter_ns()
        cold(frame_HWC)
        answered_ns = time.perf_counter_ns()
        choice, rule = cold.choice, cold.rule
    engine = entry.factory()(
        bundle.read(variant.path),
        precision=variant.precision,
        threads=how.threads,
        spinning=how.spinning,
        cache=False,
        gpu=gpu_options(bundle, variant),
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
