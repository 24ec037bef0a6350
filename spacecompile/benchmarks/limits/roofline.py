"""The arithmetic of limits: from work and ceilings to the least time, of a whole graph and of each layer.

The roofline model: S. Williams, A. Waterman, D. Patterson, Communications of the ACM 52-4 (2009), 65-76.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spacecompile.benchmarks.limits.records import (
    WHERE,
    Bandwidth,
    Bound,
    Ceiling,
    LayerLimit,
    VariantLimit,
    VariantProfile,
)
from spacecompile.export.onnx_facts.traffic import GraphTraffic
from spacecompile.runtime.backends.raw import LayerTime

_MS_PER_S = 1e3


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the machine can do at most.

    Attributes:
        gmacs_per_s: 1e9 multiply-adds per second by type, of the fastest engine.
        bandwidths: By rising working set.
    """

    gmacs_per_s: Mapping[str, float]
    bandwidths: tuple[Bandwidth, ...]

    def compute_ms(self, macs_by_type: Mapping[str, int]) -> float:
        """All multiply-adds at the ceiling of their type.

        Raises:
            KeyError: If the ceiling of a type was not measured.
        """
        return sum(macs / self.gmacs_per_s[kind] / 1e9 * _MS_PER_S for kind, macs in macs_by_type.items())

    def main_memory_ms(self, moved_bytes: int) -> float:
        """Bytes at the bandwidth of the largest working set."""
        return moved_bytes / self.bandwidths[-1].gb_per_s / 1e9 * _MS_PER_S

    def layer_memory_ms(self, moved_bytes: int) -> float:
        """Bytes at the bandwidth of the working set below them, so that a limit is never too high.

        A layer's tensors may still lie in a cache from the layer before.
        """
        return moved_bytes / self.bandwidth_below(moved_bytes).gb_per_s / 1e9 * _MS_PER_S

    def bandwidth_below(self, moved_bytes: int) -> Bandwidth:
        """That of the largest working set that does not exceed some bytes; of the smallest where all do."""
        below = [rung for rung in self.bandwidths if rung.working_set_bytes <= moved_bytes]
        return below[-1] if below else self.bandwidths[0]


def machine_from(ceilings: Sequence[Ceiling], bandwidths: Sequence[Bandwidth]) -> Machine:
    """The best engine's peak per precision, and the bandwidths."""
    peaks: dict[str, float] = {}
    for ceiling in ceilings:
        peaks[ceiling.precision] = max(ceiling.gmacs_per_s, peaks.get(ceiling.precision, 0.0))
    return Machine(gmacs_per_s=peaks, bandwidths=tuple(bandwidths))


def macs_as_computed(traffic: GraphTraffic, precision: str) -> dict[str, int]:
    """Multiply-adds by the type that they are done in; bf16 is no type of the file's."""
    if precision == "bf16":
        return {"bf16": sum(traffic.macs_by_type.values())}
    return traffic.macs_by_type


def variant_limit(
    backend: str, traffic: GraphTraffic, machine: Machine, runs_ms: Sequence[float], *, precision: str
) -> VariantLimit:
    """The share of its limit that a variant reaches.

    Args:
        backend: Backend that ran the variant.
        traffic: Traffic of the variant's graph.
        machine: With a ceiling for every type of the graph.
        runs_ms: Times of the engine alone, unprofiled, in milliseconds.
        precision: Precision of the variant.
    """
    macs = macs_as_computed(traffic, precision)
    compute_ms, memory_ms = machine.compute_ms(macs), machine.main_memory_ms(traffic.boundary_bytes)
    low, middle, high = (float(value) for value in np.percentile(runs_ms, (25, 50, 75)))
    limit_ms = max(compute_ms, memory_ms)
    return VariantLimit(
        backend=backend,
        macs=macs,
        boundary_bytes=traffic.boundary_bytes,
        compute_ms=compute_ms,
        memory_ms=memory_ms,
        limit_ms=limit_ms,
        bound="compute" if compute_ms >= memory_ms else "memory",
        measured_ms=middle,
        measured_spread_ms=(low, high),
        runs=len(runs_ms),
        share=limit_ms / middle,
    )


def variant_profile(
    backend: str,
    traffic: GraphTraffic,
    machine: Machine,
    runs: Sequence[Sequence[LayerTime]],
    *,
    walls_ms: Sequence[float],
    precision: str,
) -> VariantProfile:
    """Where the time of a variant goes.

    Args:
        backend: Backend that ran the variant.
        traffic: Traffic of the variant's graph.
        machine: With a ceiling for every type of the graph.
        runs: Layers of every profiled run.
        walls_ms: Whole time of each of them.
        precision: Precision of the variant.
    """
    layers = [_layer(times, traffic, machine, precision) for times in _by_name(runs).values()]
    # A median of each part: a program that interrupts one run lengthens one of its layers, not all.
    between_ms = float(
        np.median([wall_ms - sum(layer.ms for layer in run) for wall_ms, run in zip(walls_ms, runs, strict=True)])
    )
    where_ms = _where_ms(layers, between_ms)
    matched = sum(layer.macs for layer in layers)
    whole = sum(traffic.macs_by_type.values())
    return VariantProfile(
        backend=backend,
        runs=len(runs),
        profiled_ms=sum(where_ms.values()),
        macs_matched=matched / whole if whole else 0.0,
        where_ms=where_ms,
        layers=tuple(sorted(layers, key=lambda layer: -layer.ms)),
    )


def _by_name(runs: Sequence[Sequence[LayerTime]]) -> dict[tuple[str, int], list[LayerTime]]:
    """Times of each layer over the runs; engines give some names twice, so that a name's place counts too."""
    found: dict[tuple[str, int], list[LayerTime]] = {}
    for run in runs:
        seen: Counter[str] = Counter()
        for layer in run:
            found.setdefault((layer.name, seen[layer.name]), []).append(layer)
            seen[layer.name] += 1
    return found


def _layer(times: Sequence[LayerTime], traffic: GraphTraffic, machine: Machine, precision: str) -> LayerLimit:
    first = times[0]
    nodes = traffic.known(frozenset(first.nodes))
    moved_bytes = traffic.moved_bytes(nodes)
    macs_by_type: dict[str, int] = {}
    for node in nodes:
        if node.macs:
            # The engine's own word, where it has one, beats the file's.
            kind = first.precision if first.precision in machine.gmacs_per_s else node.type
            kind = "bf16" if precision == "bf16" and not first.precision else kind
            macs_by_type[kind] = macs_by_type.get(kind, 0) + node.macs
    compute_ms, memory_ms = machine.compute_ms(macs_by_type), machine.layer_memory_ms(moved_bytes)
    bound: Bound = "compute" if compute_ms >= memory_ms else "memory"
    return LayerLimit(
        name=first.name,
        op=first.op,
        kernel=first.kernel,
        precision=first.precision or "/".join(macs_by_type),
        nodes=len(nodes),
        macs=sum(macs_by_type.values()),
        moved_bytes=moved_bytes,
        ms=float(np.median([layer.ms for layer in times])),
        limit_ms=max(compute_ms, memory_ms),
        bound=bound if nodes else None,
    )


def _where_ms(layers: Sequence[LayerLimit], between_ms: float) -> dict[str, float]:
    """Parts of a profiled run; a layer that is faster than its limit (by chance, or from a warm cache) is all limit."""
    where = dict.fromkeys(WHERE, 0.0)
    for layer in layers:
        if layer.bound is None:
            where["unknown"] += layer.ms
            continue
        kind = "multiply" if layer.macs else "other"
        at_limit_ms = min(layer.ms, layer.limit_ms)
        where[f"{kind}_limit"] += at_limit_ms
        where[f"{kind}_above"] += layer.ms - at_limit_ms
    where["between"] = max(0.0, between_ms)
    return where
