"""The variants of a bundle as contestants: `session(frame)` as a user calls it, with a stopwatch around its engine.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.latency.interleaved import NS_PER_MS, Scope
from spacecompile.benchmarks.latency.records import ColdStart, VariantEngine
from spacecompile.contract import Variant
from spacecompile.errors import UsageError
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.backends.registry import BACKENDS, certified_present, choose_backend, entry_named
from spacecompile.runtime.backends.stopwatch import StopwatchBackend
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.choice import gpu_options
from spacecompile.runtime.session import Session, load

SLOW_EVERY = 4
"""A variant with test-time augmentation runs eight views: it takes part in every fourth round."""


def no_onnx(variant: Variant) -> str | None:
    """Why a variant's file can't be counted node by node; None where it can.

    A plan is what an engine compiled for one GPU: its nodes are the engine's own.
    """
    if PurePosixPath(variant.path).suffix == ".onnx":
        return None
    return f"{variant.path} is no ONNX file: its nodes are the engine's own"


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

    def from_files(self, paths: Sequence[Path]) -> FileContestant:
        """The same session handed the frames' files."""
        return FileContestant(self, self._session, paths)

    def scopes_ms(self) -> Mapping[Scope, float]:
        """The graph alone, and with the copies of frame and answer, of which a CPU has none."""
        watch = self._stopwatch
        return {"engine": watch.runs_ms[-1], "device": watch.with_copies_ms[-1]} if watch.runs_ms else {}

    def close(self) -> None:
        """Free the engine."""
        self._session.close()


class FileContestant:
    """A variant's session handed image files: its whole call is scope `file`, decoding included."""

    every = SLOW_EVERY

    def __init__(self, variant: VariantContestant, session: Session, paths: Sequence[Path]) -> None:
        """Share a variant's session; `VariantContestant.from_files` makes one.

        Args:
            variant: Contestant whose session it is.
            session: Closed by its variant.
            paths: Paths of the frames' files, at least one.
        """
        self.variant = variant.name
        self.name = f"{variant.name} from file"
        self._session = session
        self._paths = cycle(paths)

    def run(self, frame_HWC: NDArray[np.uint8]) -> Answer:  # noqa: ARG002  its file is read instead
        """Answer the next file."""
        return self._session(next(self._paths))

    def scopes_ms(self) -> Mapping[Scope, float]:
        """Nothing is told apart: the variant itself tells it."""
        return {}


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """How `runtime.session.load` is called; see there.

    Attributes:
        backend: Name of the engine, or `auto`.
        threads: Number of threads per operator.
        spinning: Whether idle threads wait busily.
    """

    backend: str
    threads: int
    spinning: bool

    def arguments(self, variant: Variant) -> dict[str, Any]:
        """Keyword arguments of `load` for one variant."""
        return {"variant": variant.name, "tta": variant.tta, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """One variant on one engine.

    Attributes:
        name: In the results: the variant's, and `@` and the backend's when several were asked for.
        variant: Variant of the bundle.
        how: To load it.
    """

    name: str
    variant: Variant
    how: LoadSettings


def entrants(
    variants: Sequence[Variant], backends: Sequence[str], how: LoadSettings
) -> tuple[tuple[Entrant, ...], dict[str, str]]:
    """Every variant on every engine that was asked for, and what keeps engines away.

    Args:
        variants: Variants of the bundle.
        backends: Names; `auto` is the best for each variant, `all` every one that is certified for it and present.
        how: For all; its backend is that of a single name.

    Returns:
        The entrants in the order of the variants; and per certified backend that this machine lacks, why and what adds
        it.

    Raises:
        UsageError: If a name is unknown.
    """
    for name in backends:
        if name not in ("auto", "all"):
            entry_named(name)
    rows = {entry.name: entry for entry in BACKENDS}
    reasons = {name: row.missing() for name, row in rows.items()}
    missing = {
        name: f"{reasons[name]}; add it with: {row.remedy}"
        for name, row in rows.items()
        if reasons[name] and any(name in variant.certified and row.runs(variant) for variant in variants)
    }
    single = len(backends) == 1 and backends[0] != "all"
    found = []
    for variant in variants:
        wanted = dict.fromkeys(
            choice
            for backend in backends
            for choice in (certified_present(variant) if backend == "all" else (backend,))
        )
        for backend in wanted:
            name = variant.name if single else f"{variant.name}@{backend}"
            found.append(Entrant(name=name, variant=variant, how=replace(how, backend=backend)))
    return tuple(found), missing


def open_variant(bundle: Bundle, entrant: Entrant, frame_HWC: NDArray[np.uint8]) -> tuple[VariantContestant, ColdStart]:
    """Load a variant twice: once for its cold start, and once with the stopwatch.

    Neither takes a compiled model from the user's cache folder: whether there is one is chance.

    Args:
        bundle: Verified.
        entrant: Variant of it, and how to load it.
        frame_HWC: For the first answer.

    Raises:
        UsageError: If the engine that is asked for by name does not run the variant, or is not certified for it.
        MissingPartError: If this machine lacks the engine or what the precision needs.
        SpacecompileError: Else as `load`.
    """
    variant, how = entrant.variant, entrant.how
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
        gpu=replace(gpu_options(bundle, variant), timed=True),
    )
    stopwatch = StopwatchBackend(engine)
    session = Session(stopwatch, bundle.manifest.spec, choice=choice, rule=rule)
    every = 1 if variant.tta == "none" else SLOW_EVERY
    return (
        VariantContestant(entrant.name, session, stopwatch, every=every),
        ColdStart(load_ms=(loaded_ns - start_ns) / NS_PER_MS, first_answer_ms=(answered_ns - start_ns) / NS_PER_MS),
    )
