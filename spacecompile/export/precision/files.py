"""The graph of each precision, from the float32 graph of the same network and augmentation."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import onnx
from onnx import ModelProto, TensorProto

from spacecompile.contract import Precision
from spacecompile.errors import BuildError
from spacecompile.export.onnx_facts.file_facts import graph_facts
from spacecompile.export.precision.graph import GraphView
from spacecompile.export.precision.half import FloatNode, HalfPlan, in_half
from spacecompile.export.precision.search import Int8Plan, LayerSensitivity, in_int8
from spacecompile.record import Record

_NAMED: dict[Precision, tuple[str, float, str]] = {
    "fp32": ("fp32", 1.0, "The network holds other types."),
    "bf16": ("fp32", 1.0, "The network holds other types."),
    "fp16": ("fp16", 0.9, "The values inside this network are too large for float16."),
    # What multiplies two activations, as attention does, stays float32 and counts against it.
    "int8": ("int8", 0.4, "Too many layers had to go back to float32 for parity."),
}
"""The stored type of each precision, its least share of the network's weights and multiply-adds, why it may be less."""

_STORED: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.INT8: "int8"}


@dataclass(frozen=True, kw_only=True)
class PrecisionPlans:
    """What was decided by measurement; None for a precision that is not built."""

    half: HalfPlan | None = None
    int8: Int8Plan | None = None


class HalfReport(Record):
    """How the fp16 files were made.

    Attributes:
        float_nodes: Nodes of the network that stay float32, with the reason.
        magnitude_max: Largest value inside the network over the calibration frames; float16 ends at 65504.
        calibration_frames: Names of the calibration frames.
    """

    float_nodes: tuple[FloatNode, ...]
    magnitude_max: float
    calibration_frames: tuple[str, ...]


class Int8Report(Record):
    """How the int8 files were made.

    Attributes:
        int8: Layers in int8. They were chosen on the very frames that the certificate is judged on; their scales come
            from the calibration frames.
        raised: Layers that went back to float32 for parity, the most sensitive first.
        gate_runs: Number of times that the parity gate was asked.
        calibration_frames: Names of the calibration frames.
    """

    int8: tuple[str, ...]
    raised: tuple[LayerSensitivity, ...]
    gate_runs: int
    calibration_frames: tuple[str, ...]


class FilePrecision(Record):
    """What the network in one file really computes in, read back from its bytes.

    Before and after the network a sealed graph is float32 in every precision; that part is not counted.

    Attributes:
        bytes: Size of the file.
        weight_shares: Share of the number of the network's weights per stored type.
        mac_shares: Share of the network's multiply-adds per type that they are done in.
    """

    bytes: int
    weight_shares: dict[str, float]
    mac_shares: dict[str, float]


class PrecisionReport(Record):
    """`reports/precision.json`.

    Attributes:
        fp16, int8: Report on each of these precisions; None where the bundle lacks it.
        files: Precision of each file by its path in the bundle.
    """

    files: dict[str, FilePrecision]
    fp16: HalfReport | None = None
    int8: Int8Report | None = None


def model_in(precision: Precision, model: ModelProto, plans: PrecisionPlans) -> ModelProto:
    """The graph of one precision.

    Args:
        precision: Precision of the graph; for bf16 it is the float32 graph, which an engine rounds.
        model: float32 graph with any augmentation.
        plans: Plans, the one of this precision among them.

    Raises:
        BuildError: If the model holds another network than was planned.
    """
    if precision == "fp16":
        assert plans.half is not None
        return in_half(model, plans.half)
    if precision == "int8":
        assert plans.int8 is not None
        return in_int8(model, plans.int8)
    return model


def checked_precision(variant: str, precision: Precision, content: bytes) -> FilePrecision:
    """Read a file's types back, and refuse one that is not what its name says.

    Args:
        variant: Name of the variant, for the message.
        precision: Precision that the file should have.
        content: Content of the file.

    Raises:
        BuildError: If too little of it is in that precision.
    """
    view = GraphView(onnx.load_from_string(content))
    names = {node.name for node in view.network_nodes}
    macs: Counter[str] = Counter()
    for mac_node in graph_facts(content).mac_nodes:
        if mac_node.name in names:
            macs[mac_node.type] += mac_node.macs
    found = FilePrecision(bytes=len(content), weight_shares=_shares(_weights_per_type(view)), mac_shares=_shares(macs))
    _refuse_misnamed(variant, precision, found)
    return found


def _weights_per_type(view: GraphView) -> Counter[str]:
    """Number of weights that the network's nodes read, per stored type; scales and zero points are none."""
    read = {
        name
        for node in view.network_nodes
        for name in (node.input[:1] if node.op_type in ("QuantizeLinear", "DequantizeLinear") else node.input)
        if name in view.weights
    }
    counts: Counter[str] = Counter()
    for name in read:
        weight = view.weights[name]
        if weight.data_type in _STORED:
            counts[_STORED[weight.data_type]] += math.prod(weight.dims)
    return counts


def _shares(amounts: Counter[str]) -> dict[str, float]:
    total = amounts.total()
    return {name: amounts[name] / total for name in sorted(amounts)} if total else {}


def _refuse_misnamed(variant: str, precision: Precision, found: FilePrecision) -> None:
    name, least, why = _NAMED[precision]
    weights, macs = found.weight_shares.get(name, 0.0), found.mac_shares.get(name, 0.0)
    if min(weights, macs) < least:
        raise BuildError(
            f"variant {variant} would hold {weights:.1%} of the network's weights and do {macs:.1%} of its "
            f"multiply-adds in {name}; at least {least:.0%} are needed to call it {precision}. {why} Leave {precision} "
            "out of --precision; the others can be built."
        )
