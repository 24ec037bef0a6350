"""What a results file holds about limits: ceilings of the machine, the share of them that each variant reaches."""

from __future__ import annotations

from typing import Literal

import msgspec

from spacecompile.record import Record

Bound = Literal["compute", "memory"]

_CLEARLY = 0.8
"""Engines tell times of layers in whole microseconds, and medians of few runs scatter."""


class Ceiling(Record):
    """The fastest matrix product that an engine did on this machine.

    Attributes:
        backend: The engine.
        precision: Precision that the engine was asked to multiply in.
        gmacs_per_s: 1e9 multiply-adds per second, of the best run.
        runs: Number of runs of which it is the best.
    """

    backend: str
    precision: str
    gmacs_per_s: float
    runs: int


class Bandwidth(Record):
    """The fastest copy of a working set, counted as STREAM does: bytes read and bytes written.

    Attributes:
        working_set_bytes: Source and destination of all threads together.
        gb_per_s: 1e9 bytes per second, of the best run.
    """

    working_set_bytes: int
    gb_per_s: float


class VariantLimit(Record):
    """How near a variant comes to what the machine allows.

    Attributes:
        backend: Backend that runs the variant.
        macs: Multiply-adds per type that they are done in, all views of test-time augmentation included.
        boundary_bytes: Frame, answers and weights, each once: what must move however much is fused.
        compute_ms: All multiply-adds at the ceiling of their type.
        memory_ms: `boundary_bytes` at the bandwidth of the main memory.
        limit_ms: The larger of the two; no schedule on this machine is faster.
        bound: Kind of the lower limit, compute or memory.
        measured_ms: Median of the engine alone.
        measured_spread_ms: First and third quartile of it.
        runs: Number of runs of which it is the median.
        share: `limit_ms` over `measured_ms`, 0 to 1.
    """

    backend: str
    macs: dict[str, int]
    boundary_bytes: int
    compute_ms: float
    memory_ms: float
    limit_ms: float
    bound: Bound
    measured_ms: float
    measured_spread_ms: tuple[float, float]
    runs: int
    share: float


class LayerLimit(Record):
    """One layer as the engine runs it.

    Attributes:
        name, op, kernel, precision: As the engine calls them; empty where it does not tell.
        nodes: Number of nodes of the file that are known to have gone into it.
        macs: Multiply-adds of these nodes.
        moved_bytes: Into and out of these nodes; 0 where none is known.
        ms: Median over the profiled runs.
        limit_ms: The larger of its multiply-adds at their ceiling and its bytes at the bandwidth of their working set.
        bound: Kind of the lower limit, compute or memory; None where no node is known.
    """

    name: str
    op: str
    kernel: str
    precision: str
    nodes: int
    macs: int
    moved_bytes: int
    ms: float
    limit_ms: float
    bound: Bound | None


class VariantProfile(Record):
    """Where the time of a variant goes, by its engine's own profiler.

    Attributes:
        backend: The engine.
        runs: Number of runs that were profiled.
        profiled_ms: A whole run while its layers are timed, which costs time itself: the sum of `where_ms`.
        macs_matched: Share of the graph's multiply-adds whose layer is known, 0 to 1.
        where_ms: By part, see `WHERE`; medians over the runs.
        layers: The slowest first.
    """

    backend: str
    runs: int
    profiled_ms: float
    macs_matched: float
    where_ms: dict[str, float]
    layers: tuple[LayerLimit, ...]

    @property
    def layers_above_ceiling(self) -> int:
        """How many layers multiplied clearly faster than the ceiling: it was measured while the machine was busy."""
        return sum(layer.bound == "compute" and layer.ms < _CLEARLY * layer.limit_ms for layer in self.layers)


WHERE = {
    "multiply_limit": "multiplying layers, at the limit",
    "multiply_above": "multiplying layers, above it",
    "other_limit": "other layers, at the limit of memory",
    "other_above": "other layers, above it",
    "unknown": "layers of no known node",
    "between": "between the layers",
}
"""Parts of a profiled run, with their names for people."""


class LimitReport(Record):
    """Limits of the machine and of every variant on it.

    Attributes:
        threads: Number of threads in every measurement.
        ceilings: Ceilings of every engine and precision that could be measured.
        bandwidths: By rising working set.
        variants: By name.
        profiles: By variant; empty without `--profile`.
        missing: Why a variant has no limit, by name.
    """

    threads: int
    ceilings: tuple[Ceiling, ...]
    bandwidths: tuple[Bandwidth, ...]
    variants: dict[str, VariantLimit]
    profiles: dict[str, VariantProfile] = msgspec.field(default_factory=dict)
    missing: dict[str, str] = msgspec.field(default_factory=dict)
