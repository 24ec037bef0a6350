"""How near a proof's latencies come to what the GPU allows: its matrix product and its copies, measured with PyTorch.

PyTorch is there for the reference anyway, and its matrix product is the vendor's library. The model is `roofline`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch

from spacecompile.benchmarks.latency.summary import sample_floor
from spacecompile.benchmarks.limits.records import Bandwidth, Ceiling, VariantLimit
from spacecompile.benchmarks.limits.roofline import Machine, machine_from, variant_limit
from spacecompile.benchmarks.proof.contestants import DeviceContestant, Proven
from spacecompile.benchmarks.proof.records import ProofLimits
from spacecompile.benchmarks.proof.torch_on_gpu import torch_on_gpu
from spacecompile.contract import Progress, Variant, no_progress
from spacecompile.errors import UsageError
from spacecompile.export.onnx_facts.traffic import GraphTraffic, graph_traffic
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.cuda.compatibility import SIDECAR_SUFFIX, facts_from_sidecar

_DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16}
"""PyTorch has no public matrix product of int8."""

_STEP = "limits of the GPU"
_RUNS_MIN = 5
_COPIES_MIN_BYTES = 256 << 20
"""Copies that are waited for one by one would measure the waiting."""


@dataclass(frozen=True, kw_only=True)
class DeviceCeilingSettings:
    """How to measure.

    Attributes:
        matrix_side: Rows and columns of both factors: milliseconds of a large GPU, beside which queueing is nothing.
        working_sets_bytes: To copy, source and destination together, by rising size: one that a large GPU's cache
            holds, one for its memory.
        seconds: Per precision and per working set, after a least number of runs.
    """

    matrix_side: int = 8192
    working_sets_bytes: tuple[int, ...] = (32 << 20, 1 << 30)
    seconds: float = 1.0


def proof_limits(
    bundle: Bundle,
    proven: Sequence[Proven],
    app_ms: Mapping[str, Mapping[int, float]],
    *,
    device: str,
    settings: DeviceCeilingSettings,
    gap_for: Callable[[str], AbstractContextManager[None]],
    progress: Progress = no_progress,
) -> ProofLimits:
    """Measure the GPU's ceilings, and how near each variant of a race came to them.

    Args:
        bundle: Bundle that holds the graphs.
        proven: Sessions whose limits are wanted.
        app_ms: Samples of each contestant of the race, by round.
        device: Device of PyTorch.
        settings: How to measure.
        gap_for: Around each variant; an error in it is a gap.
        progress: Told each precision and working set.

    Raises:
        DeviceError: If PyTorch fails on the GPU.
    """
    graphs: dict[str, GraphTraffic] = {}
    for it in proven:
        with gap_for(f"the limit of {it.name}"):
            graphs[it.name] = graph_traffic(onnx_of(bundle, it.variant))
    types = [kind for kind in _DTYPES if any(kind in graph.macs_by_type for graph in graphs.values())]
    with torch_on_gpu():
        ceilings, bandwidths = _measured(types, torch.device(device), settings, progress)
    machine = machine_from(ceilings, bandwidths)
    scopes: dict[str, dict[str, VariantLimit]] = {"app": {}, "device": {}}
    for it in [it for it in proven if it.name in graphs]:
        for scope, key in (("app", it.name), ("device", DeviceContestant.key(it.name))):
            if samples_ms := list(app_ms.get(key, {}).values()):
                with gap_for(f"the limit of {it.name}, scope {scope}"):
                    scopes[scope][it.name] = _limit(it, graphs[it.name], machine, samples_ms)
    return ProofLimits(ceilings=ceilings, bandwidths=bandwidths, scopes=scopes)


def onnx_of(bundle: Bundle, variant: Variant) -> bytes:
    """The ONNX file of a variant; of a plan the one that it was built of.

    Raises:
        UsageError: If the bundle does not hold it any more.
        IntegrityError: If a file differs from its manifest.
    """
    if variant.path.endswith(".onnx"):
        return bundle.read(variant.path)
    sidecar = variant.path + SIDECAR_SUFFIX
    sha256 = facts_from_sidecar(bundle.read(sidecar), sidecar).onnx_sha256
    for path, fact in bundle.manifest.files.items():
        if fact.sha256 == sha256:
            return bundle.read(path)
    raise UsageError(
        f"the plan {variant.name} was built of an ONNX file that the bundle does not hold any more. Run `spacecompile "
        "rebuild` on it."
    )


def _limit(proven: Proven, graph: GraphTraffic, machine: Machine, samples_ms: Sequence[float]) -> VariantLimit:
    if unknown := sorted(graph.macs_by_type.keys() - machine.gmacs_per_s.keys()):
        raise UsageError(f"PyTorch gives no ceiling for {', '.join(unknown)}.")
    if len(samples_ms) < (floor := sample_floor(50)):
        raise UsageError(f"{len(samples_ms)} samples were timed, a median needs {floor}. Measure longer.")
    # What a cache holds from frame to frame, as a large GPU's does the weights, need not come from the memory.
    rung = machine.bandwidth_below(graph.boundary_bytes)
    return variant_limit(
        proven.session.choice.backend,
        graph,
        Machine(gmacs_per_s=machine.gmacs_per_s, bandwidths=(rung,)),
        samples_ms,
        precision=proven.variant.precision,
    )


def _measured(
    types: Sequence[str], device: torch.device, settings: DeviceCeilingSettings, progress: Progress
) -> tuple[tuple[Ceiling, ...], tuple[Bandwidth, ...]]:
    ceilings: list[Ceiling] = []
    bandwidths: list[Bandwidth] = []
    total = len(types) + len(settings.working_sets_bytes)
    try:
        for kind in types:
            progress(_STEP, len(ceilings), total)
            ceilings.append(_ceiling(kind, device, settings))
        for working_set_bytes in settings.working_sets_bytes:
            progress(_STEP, len(types) + len(bandwidths), total)
            bandwidths.append(_bandwidth(working_set_bytes, device, settings))
        progress(_STEP, total, total)
    finally:
        if device.type == "cuda":
            # What PyTorch keeps for later would be missing to the sessions.
            torch.cuda.empty_cache()
    return tuple(ceilings), tuple(bandwidths)


def _ceiling(kind: str, device: torch.device, settings: DeviceCeilingSettings) -> Ceiling:
    side = settings.matrix_side
    left_MK, right_KN, product_MN = (torch.randn(side, side, device=device, dtype=_DTYPES[kind]) for _ in range(3))
    multiply = partial(torch.mm, left_MK, right_KN, out=product_MN)
    best_s, runs = _best(multiply, device, settings.seconds)
    return Ceiling(backend="pytorch", precision=kind, gmacs_per_s=side**3 / best_s / 1e9, runs=runs)


def _bandwidth(working_set_bytes: int, device: torch.device, settings: DeviceCeilingSettings) -> Bandwidth:
    half_bytes = working_set_bytes // 2
    source, destination = (torch.zeros(half_bytes, device=device, dtype=torch.uint8) for _ in range(2))
    copies = max(1, _COPIES_MIN_BYTES // working_set_bytes)

    def copy() -> None:
        for _ in range(copies):
            destination.copy_(source)

    best_s, _ = _best(copy, device, settings.seconds)
    return Bandwidth(working_set_bytes=2 * half_bytes, gb_per_s=2 * half_bytes * copies / best_s / 1e9)


def _best(call: Callable[[], object], device: torch.device, seconds: float) -> tuple[float, int]:
    """Shortest time of a call in seconds, and of how many; the first, which chooses a kernel, is not among them."""

    def timed_s() -> float:
        begin_s = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin_s

    timed_s()
    end_s, best_s, runs = time.perf_counter() + seconds, float("inf"), 0
    while runs < _RUNS_MIN or time.perf_counter() < end_s:
        best_s = min(best_s, timed_s())
        runs += 1
    return best_s, runs
