"""Measuring limits: the ceilings of this machine, then every variant in its engine, whole and layer by layer.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.latency.interleaved import NS_PER_MS
from spacecompile.benchmarks.latency.variants import Entrant, no_onnx
from spacecompile.benchmarks.limits.ceilings import (
    MATRIX_SIDE,
    WORKING_SETS_BYTES,
    CeilingSettings,
    measure_bandwidths,
    measure_ceilings,
)
from spacecompile.benchmarks.limits.records import Bandwidth, Ceiling, LimitReport
from spacecompile.benchmarks.limits.roofline import (
    Machine,
    machine_from,
    macs_as_computed,
    variant_limit,
    variant_profile,
)
from spacecompile.contract import INPUT_NAME, Precision, Progress, Variant, no_progress
from spacecompile.errors import IntegrityError, MissingPartError, UsageError
from spacecompile.export.onnx_facts.traffic import GraphTraffic, graph_traffic
from spacecompile.runtime.backends.raw import RawGraph, open_raw
from spacecompile.runtime.bundle import Bundle

_WARMUP_RUNS = 2
_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """How to measure limits.

    Attributes:
        threads: Number of threads per operator.
        spinning: Whether idle threads wait busily.
        profile: Measure layers too.
        ceiling_s: Per engine and precision, and per working set.
        runs_min: Least number of runs of each variant, whole and profiled, after two to warm up.
        variant_s: Go on with runs until this long.
        matrix_side, working_sets_bytes: Sizes for the ceilings; see `ceilings.CeilingSettings`.
    """

    threads: int
    spinning: bool
    profile: bool = False
    ceiling_s: float = 0.4
    runs_min: int = 11
    variant_s: float = 2.0
    matrix_side: int = MATRIX_SIDE
    working_sets_bytes: tuple[int, ...] = WORKING_SETS_BYTES


def limit_settings(*, threads: int, spinning: bool, profile: bool, duration_s: float) -> LimitSettings:
    """Settings in proportion to those of the latency run: a quick bench stays quick.

    Args:
        threads: Number of threads per operator.
        spinning: Whether idle threads wait busily.
        profile: Measure layers too.
        duration_s: Duration of the latency run in seconds.
    """
    share = min(1.0, duration_s / 30)
    return LimitSettings(
        threads=threads,
        spinning=spinning,
        profile=profile,
        ceiling_s=0.4 * share,
        variant_s=2.0 * share,
        runs_min=11 if duration_s else 3,
    )


def measure_limits(
    bundle: Bundle,
    asked: Sequence[Entrant],
    engines: Mapping[str, str],
    frames_HWC: Sequence[NDArray[np.uint8]],
    settings: LimitSettings,
    *,
    progress: Progress = no_progress,
) -> Iterator[LimitReport]:
    """Measure the machine and every variant on it; yields the report with each variant that it gains.

    Args:
        bundle: Verified.
        asked: Variants of it on their engines.
        engines: Backend by entrant; one without is left out.
        frames_HWC: To run on, in turn.
        settings: How.
        progress: Told each step.

    Raises:
        IntegrityError: If a graph is no valid ONNX file.
    """
    subjects = [
        _Subject(
            name=entrant.name,
            variant=entrant.variant,
            backend=engines[entrant.name],
            model_bytes=bundle.read(entrant.variant.path),
        )
        for entrant in asked
        if entrant.name in engines and no_onnx(entrant.variant) is None
    ]
    ceilings, bandwidths = _ceilings(subjects, settings, progress)
    report = LimitReport(threads=settings.threads, ceilings=ceilings, bandwidths=bandwidths, variants={})
    report.missing.update({entrant.name: reason for entrant in asked if (reason := no_onnx(entrant.variant))})
    machine = machine_from(ceilings, bandwidths)
    for index, subject in enumerate(subjects):
        progress("limits of the variants", index, len(subjects))
        try:
            _measure(subject, machine, frames_HWC, settings, report)
        except (MissingPartError, UsageError, IntegrityError) as error:
            report.missing[subject.name] = str(error)
        yield report
        progress("limits of the variants", index + 1, len(subjects))
    if not subjects:
        yield report


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A variant, what runs it, and its file."""

    name: str
    variant: Variant
    backend: str
    model_bytes: bytes

    @cached_property
    def traffic(self) -> GraphTraffic:
        """Read once: it takes seconds."""
        return graph_traffic(self.model_bytes)

    def macs(self) -> dict[str, int]:
        """By the type that they are done in."""
        return macs_as_computed(self.traffic, self.variant.precision)

    def open(self, settings: LimitSettings, *, profile: bool) -> RawGraph:
        """Load the graph as its backend does."""
        return open_raw(
            self.backend,
            self.model_bytes,
            precision=self.variant.precision,
            threads=settings.threads,
            spinning=settings.spinning,
            profile=profile,
        )


def _ceilings(
    subjects: Sequence[_Subject], settings: LimitSettings, progress: Progress
) -> tuple[tuple[Ceiling, ...], tuple[Bandwidth, ...]]:
    """Peaks in fp32 and in every type that a variant multiplies in, and the memory's bandwidths."""
    how = CeilingSettings(
        threads=settings.threads,
        spinning=settings.spinning,
        seconds=settings.ceiling_s,
        matrix_side=settings.matrix_side,
        working_sets_bytes=settings.working_sets_bytes,
    )
    needed = {kind for subject in subjects for kind in subject.macs()}
    wanted = [precision for precision in _PRECISIONS if precision in needed | {"fp32"}]
    return measure_ceilings(wanted, how, progress=progress), measure_bandwidths(how, progress=progress)


def _measure(
    subject: _Subject,
    machine: Machine,
    frames_HWC: Sequence[NDArray[np.uint8]],
    settings: LimitSettings,
    report: LimitReport,
) -> None:
    """Add one variant to the report.

    Raises:
        MissingPartError: If the ceiling of a type is unknown, or the engine can't run the variant here.
        UsageError: If the engine's layers can't be told.
        IntegrityError: If it refuses the graph.
    """
    name, precision = subject.name, subject.variant.precision
    unknown = subject.macs().keys() - machine.gmacs_per_s.keys()
    if unknown:
        raise MissingPartError(
            f"no engine here could be measured in {', '.join(sorted(unknown))}. Run `spacecompile doctor` to see which "
            "engines are missing."
        )
    runs_ms = _timed(subject.open(settings, profile=False), frames_HWC, settings)
    report.variants[name] = variant_limit(subject.backend, subject.traffic, machine, runs_ms, precision=precision)
    if settings.profile:
        graph = subject.open(settings, profile=True)
        walls_ms = _timed(graph, frames_HWC, settings)
        report.profiles[name] = variant_profile(
            subject.backend,
            subject.traffic,
            machine,
            graph.layers()[-len(walls_ms) :],
            walls_ms=walls_ms,
            precision=precision,
        )


def _timed(graph: RawGraph, frames_HWC: Sequence[NDArray[np.uint8]], settings: LimitSettings) -> list[float]:
    """Milliseconds of every run after those that warm up."""
    for frame_HWC in itertools.islice(itertools.cycle(frames_HWC), _WARMUP_RUNS):
        graph.run({INPUT_NAME: frame_HWC})
    runs_ms: list[float] = []
    end_s = time.perf_counter() + settings.variant_s
    for frame_HWC in itertools.cycle(frames_HWC):
        start_ns = time.perf_counter_ns()
        graph.run({INPUT_NAME: frame_HWC})
        runs_ms.append((time.perf_counter_ns() - start_ns) / NS_PER_MS)
        if len(runs_ms) >= settings.runs_min and time.perf_counter() >= end_s:
            break
    return runs_ms
