"""How the cost of an answer grows with the input, the frame, the batch, the threads and test-time augmentation.

Every point is a sealed graph of the same weights, built for that size and run in the engine of the bundle. The points
of one curve run in turn, so that whatever drifts meets all of them alike.

Layout legend: N batch; H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from spacecompile.benchmarks.latency.interleaved import NS_PER_MS
from spacecompile.benchmarks.limits.scaling_fit import fitted
from spacecompile.benchmarks.limits.scaling_records import Axis, ScalingCurve, ScalingPoint, ScalingReport
from spacecompile.contract import INPUT_NAME, ModelSpec, Precision, Progress, Tta, Variant, no_progress
from spacecompile.errors import SpacecompileError
from spacecompile.export.onnx_facts.facts import graph_facts
from spacecompile.export.rewrite import rewrite_network
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.export.sealed.to_onnx import export_onnx
from spacecompile.network.checkpoint import load_source
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.runtime.backends.raw import RawGraph, open_raw

_STEP = "scaling"
_MULTIPLE_PX = 32
"""Of every side that an encoder takes."""


@dataclass(frozen=True, kw_only=True)
class ScalingSettings:
    """Which points to measure, and how long.

    Attributes:
        threads: Number of threads at every point but those of the threads' own curve.
        spinning: Whether idle threads wait busily.
        input_sides_px: Heights of the input; the width follows by the network's own ratio.
        frame_multiples: Frame sides as multiples of the input's sides.
        batches: Inputs that go through the network at once.
        rounds: Recorded runs of each point.
    """

    threads: int
    spinning: bool
    input_sides_px: tuple[int, ...] = (256, 384, 512, 768, 1024)
    frame_multiples: tuple[int, ...] = (1, 2, 3, 4)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    rounds: int = 11


def scaling_settings(*, threads: int, spinning: bool, duration_s: float) -> ScalingSettings:
    """Settings in proportion to the latency run: without any duration, few rounds."""
    return ScalingSettings(threads=threads, spinning=spinning, rounds=11 if duration_s else 3)


@dataclass(frozen=True, kw_only=True)
class _Build:
    """What one point runs."""

    value: float
    spec: ModelSpec
    tta: Tta = "none"
    batch: int = 1
    threads: int


class BatchGraph(nn.Module):
    """A sealed graph whose network sees its input several times as one batch, and whose answer is their mean."""

    def __init__(self, sealed: SealedGraph, batch: int) -> None:
        """Take over the parts of a sealed graph without test-time augmentation."""
        super().__init__()
        self.sealed = sealed
        self.batch = batch
        self.eval()

    def forward(self, frame_HWC: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Answer one frame; see `SealedGraph.forward`."""
        input_NCHW = self.sealed.to_input(frame_HWC.to(torch.float32)).repeat(self.batch, 1, 1, 1)
        class_logits_NL, part_logits_NKhw, *residuals = self.sealed.network(input_NCHW)
        residuals_N4 = residuals[0] * float(self.sealed.box_rule.residual) if residuals else None
        mean_1Khw = part_logits_NKhw.mean(dim=0, keepdim=True)
        parts_HW, box_xyxy, parts_px, logit_max = self.sealed.to_parts(mean_1Khw, residuals_N4)
        health = torch.stack([*parts_px.unbind(), logit_max, logit_max, logit_max, logit_max])
        return torch.softmax(class_logits_NL, dim=1).mean(dim=0), parts_HW, box_xyxy, health


def measure_scaling(
    checkpoint: Path,
    spec: ModelSpec,
    variant: Variant,
    *,
    backend: str,
    settings: ScalingSettings,
    progress: Progress = no_progress,
) -> Iterator[ScalingReport]:
    """Measure every curve; yields the report with each curve that it gains.

    Args:
        checkpoint: The bundle's source weights.
        spec: Spec of the bundle.
        variant: Variant whose precision is taken; fp16 and int8, which need a calibration per size, are measured in
            fp32.
        backend: Engine of all curves.
        settings: Points to measure.
        progress: Told each graph that is built and measured.

    Raises:
        CheckpointError: If the checkpoint can't be read.
        MissingPartError: If the engine is not here.
    """
    precision: Precision = "bf16" if variant.precision == "bf16" else "fp32"
    network = _rewritten(load_source(checkpoint, spec).network)
    wanted = _curves(network.spec, settings)
    workshop = _Workshop(network=network, backend=backend, precision=precision, settings=settings)
    total, done = sum(len(builds) for _, _, builds in wanted), 0
    aspect = network.spec.input_size_px[1] / network.spec.input_size_px[0]
    report = ScalingReport(backend=backend, precision=precision, curves=(), skipped={})
    for axis, fixed, builds in wanted:
        graphs = {}
        for build in builds:
            progress(_STEP, done, total)
            try:
                graphs[build.value] = workshop.open(build)
            except SpacecompileError as error:
                report.skipped[f"{axis} {build.value:g}"] = str(error)
            done += 1
        points, failures = workshop.measured(graphs)
        report.skipped.update({f"{axis} {value:g}": reason for value, reason in failures.items()})
        curve = ScalingCurve(axis=axis, fixed=fixed, points=points, fit=fitted(axis, points, aspect))
        report = replace(report, curves=(*report.curves, curve))
        yield report
        progress(_STEP, done, total)


def _rewritten(network: MultiTaskNetwork) -> MultiTaskNetwork:
    rewritten, _ = rewrite_network(network, skip_unproven=True)
    return rewritten


def _curves(spec: ModelSpec, settings: ScalingSettings) -> list[tuple[Axis, str, list[_Build]]]:
    """Axis, what stays, and the graphs of each curve."""
    (height_px, width_px), threads = spec.input_size_px, settings.threads
    frame = f"{spec.frame_size_px[0]}x{spec.frame_size_px[1]} frame"
    size = f"{height_px}x{width_px} input"
    used = f"{threads} thread{'s' if threads != 1 else ''}"

    def resized(side_px: int) -> ModelSpec:
        other_px = max(1, round(side_px * width_px / height_px / _MULTIPLE_PX)) * _MULTIPLE_PX
        return replace(spec, input_size_px=(side_px, other_px))

    def framed(multiple: int) -> ModelSpec:
        return replace(spec, frame_size_px=(multiple * height_px, multiple * width_px))

    curves: list[tuple[Axis, str, list[_Build]]] = [
        (
            "input",
            f"{frame}, {used}",
            [_Build(value=side_px, spec=resized(side_px), threads=threads) for side_px in settings.input_sides_px],
        ),
        (
            "frame",
            f"{size}, {used}",
            [
                _Build(value=multiple * height_px, spec=framed(multiple), threads=threads)
                for multiple in settings.frame_multiples
            ],
        ),
        (
            "batch",
            f"{size}, {frame}, {used}",
            [_Build(value=batch, spec=spec, batch=batch, threads=threads) for batch in settings.batches],
        ),
        (
            "threads",
            f"{size}, {frame}",
            [_Build(value=count, spec=spec, threads=count) for count in range(1, threads + 1)],
        ),
    ]
    if height_px == width_px:
        views = [_Build(value=1, spec=spec, threads=threads), _Build(value=8, spec=spec, tta="d4", threads=threads)]
        curves.append(("augmentation", f"{size}, {frame}, {used}", views))
    return curves


@dataclass(frozen=True, kw_only=True)
class _Workshop:
    """Builds graphs of one network and measures them in one engine."""

    network: MultiTaskNetwork
    backend: str
    precision: Precision
    settings: ScalingSettings
    exported: dict[tuple[object, ...], bytes] = field(default_factory=dict)

    def open(self, build: _Build) -> tuple[RawGraph, ModelSpec, int]:
        """The graph in its engine, its spec and its multiply-adds."""
        content = self._content(build)
        opened = open_raw(
            self.backend, content, precision=self.precision, threads=build.threads, spinning=self.settings.spinning
        )
        return opened, build.spec, graph_facts(content).macs

    def _content(self, build: _Build) -> bytes:
        """The file of a graph; several curves pass through the bundle's own size, which is built once."""
        key = (build.spec.input_size_px, build.spec.frame_size_px, build.tta, build.batch)
        if key not in self.exported:
            sealed = SealedGraph(self.network, build.spec, build.tta)
            graph = sealed if build.batch == 1 else BatchGraph(sealed, build.batch)
            self.exported[key] = export_onnx(graph, build.spec.frame_size_px, facts={})
        return self.exported[key]

    def measured(
        self, graphs: Mapping[float, tuple[RawGraph, ModelSpec, int]]
    ) -> tuple[tuple[ScalingPoint, ...], dict[float, str]]:
        """The points of one curve, run in turn; the first round warms up and is not recorded.

        Returns:
            The points, and of each that its engine fails on the reason.
        """
        rng = np.random.default_rng(0)
        runs: dict[float, Callable[[], None]] = {
            value: _run(graph, rng.integers(0, 256, (*spec.frame_size_px, 3), dtype=np.uint8))
            for value, (graph, spec, _) in graphs.items()
        }
        times_ms: dict[float, list[float]] = {value: [] for value in runs}
        failures: dict[float, str] = {}
        for _ in range(self.settings.rounds + 1):
            for value in [value for value in runs if value not in failures]:
                start_ns = time.perf_counter_ns()
                try:
                    runs[value]()
                except SpacecompileError as error:
                    failures[value] = str(error)
                times_ms[value].append((time.perf_counter_ns() - start_ns) / NS_PER_MS)
        able = [value for value in sorted(graphs) if value not in failures]
        return tuple(_point(value, times_ms[value][1:], graphs[value][2]) for value in able), failures


def _run(graph: RawGraph, frame_HWC: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Callable[[], None]:
    return lambda: graph.run({INPUT_NAME: frame_HWC})


def _point(value: float, times_ms: Sequence[float], macs: int) -> ScalingPoint:
    low, middle, high = (float(time_ms) for time_ms in np.percentile(times_ms, (25, 50, 75)))
    return ScalingPoint(value=value, ms=middle, spread_ms=(low, high), runs=len(times_ms), macs=macs)
