"""Which layers can be int8: all of them first, then the most sensitive ones go back until the parity gate holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from spacecompile.contract import INPUT_NAME, Progress, no_progress
from spacecompile.errors import ParityError
from spacecompile.export.precision.graph import GraphView
from spacecompile.export.precision.magnitude import UNBOUNDED, largest_magnitudes
from spacecompile.export.precision.probe import session_giving
from spacecompile.export.precision.quantise import Layer, quantisable_layers, quantised
from spacecompile.export.precision.ranges import activation_scales
from spacecompile.record import Record

_SENSITIVITY_FRAMES = 4


class LayerSensitivity(Record):
    """What one layer does to the answers when it alone is int8.

    Attributes:
        layer: Name of the layer in the network.
        op: Operator of the layer.
        error: Root mean square change of the network's outputs over their own root mean square, summed over outputs.
    """

    layer: str
    op: str
    error: float


@dataclass(frozen=True, kw_only=True)
class Int8Plan:
    """Which layers are int8, by keys that hold in every export of the network.

    Attributes:
        scales: Scale of the activation of every int8 layer by layer key.
        int8: Labels of the int8 layers in the network's order.
        raised: Layers that went back to float32, the most sensitive first.
        gate_runs: Number of times that the parity gate was asked.
    """

    scales: Mapping[str, float]
    int8: tuple[str, ...]
    raised: tuple[LayerSensitivity, ...]
    gate_runs: int


Gate = Callable[[Int8Plan], Sequence[str]]
"""Judges the files that a plan gives; one sentence per broken limit."""


def plan_int8(
    model: ModelProto,
    frames_HWC: Sequence[NDArray[np.uint8]],
    *,
    gate: Gate,
    threads: int,
    progress: Progress = no_progress,
) -> Int8Plan:
    """Choose the scales and the layers.

    The number of layers that go back is found by bisection over the layers in the order of their sensitivity.

    Args:
        model: float32 graph without test-time augmentation, with inferred types.
        frames_HWC: Calibration frames.
        gate: Parity gate; it may fail even for a single int8 layer.
        threads: Number of threads of ONNX Runtime.
        progress: Callback for progress.

    Raises:
        ParityError: If the gate fails with one layer int8 already.
    """
    largest = largest_magnitudes(model, frames_HWC, threads=threads, progress=progress)
    layers = [layer for layer in quantisable_layers(GraphView(model)) if largest[layer.activation] < UNBOUNDED]
    wanted = {layer.activation: largest[layer.activation] for layer in layers}
    by_tensor = activation_scales(model, wanted, frames_HWC, threads=threads, progress=progress)
    scales = {layer.key: by_tensor[layer.activation] for layer in layers}
    candidate = _plan(layers, scales, raised=(), gate_runs=1)
    failures = gate(candidate)
    if not failures:
        return candidate
    # Few frames, because every layer is run alone on each of them.
    probe_HWC = frames_HWC[:: max(1, len(frames_HWC) // _SENSITIVITY_FRAMES)][:_SENSITIVITY_FRAMES]
    errors = _sensitivities(model, layers, scales, probe_HWC, threads=threads, progress=progress)
    order = sorted(layers, key=lambda layer: -errors[layer.key])
    # With none put back the gate has just failed.
    low, high, gate_runs = 1, len(layers), 1
    while low < high:
        middle = (low + high) // 2
        gate_runs += 1
        broken = gate(_plan(_without(layers, order[:middle]), scales, raised=(), gate_runs=gate_runs))
        if broken:
            low, failures = middle + 1, broken
        else:
            high = middle
    if low >= len(layers):
        raise ParityError(
            f"int8 does not hold parity on this network, even with a single layer: {failures[0]}. "
            "Leave int8 out of --precision, or give more calibration frames with --data."
        )
    raised = tuple(
        LayerSensitivity(layer=layer.label, op=layer.op_type, error=errors[layer.key]) for layer in order[:low]
    )
    return _plan(_without(layers, order[:low]), scales, raised=raised, gate_runs=gate_runs)


def in_int8(model: ModelProto, plan: Int8Plan) -> ModelProto:
    """The int8 graph of any export of the network that was planned."""
    layers = [layer for layer in quantisable_layers(GraphView(model)) if layer.key in plan.scales]
    return quantised(model, layers, plan.scales)


def _plan(
    layers: Sequence[Layer], scales: Mapping[str, float], *, raised: tuple[LayerSensitivity, ...], gate_runs: int
) -> Int8Plan:
    return Int8Plan(
        scales={layer.key: scales[layer.key] for layer in layers},
        int8=tuple(layer.label for layer in layers),
        raised=raised,
        gate_runs=gate_runs,
    )


def _without(layers: Sequence[Layer], left_out: Sequence[Layer]) -> list[Layer]:
    keys = {layer.key for layer in left_out}
    return [layer for layer in layers if layer.key not in keys]


def _sensitivities(
    model: ModelProto,
    layers: Sequence[Layer],
    scales: Mapping[str, float],
    frames_HWC: Sequence[NDArray[np.uint8]],
    *,
    threads: int,
    progress: Progress,
) -> dict[str, float]:
    names = GraphView(model).network_outputs
    expected = _network_outputs(model, names, frames_HWC, threads)
    errors = {}
    for done, layer in enumerate(layers, start=1):
        seen = _network_outputs(quantised(model, [layer], scales), names, frames_HWC, threads)
        errors[layer.key] = sum(
            float(np.sqrt(np.mean((b - a) ** 2) / max(float(np.mean(a**2)), 1e-12)))
            for a, b in zip(expected, seen, strict=True)
        )
        progress("sensitivity", done, len(layers))
    return errors


def _network_outputs(
    model: ModelProto, names: Sequence[str], frames_HWC: Sequence[NDArray[np.uint8]], threads: int
) -> list[NDArray[np.float32]]:
    """Each output of the network over all frames."""
    session = session_giving(model, names, threads=threads)
    runs = [session.run(list(names), {INPUT_NAME: frame_HWC}) for frame_HWC in frames_HWC]
    return [np.stack(values) for values in zip(*runs, strict=True)]
