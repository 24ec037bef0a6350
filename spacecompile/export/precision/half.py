"""Which nodes of a graph may be float16, decided by measurement, and the graph that follows.

Float32 stay: everything before and after the network, softmax, and every node that reads or gives a value above a share
of float16's range over the calibration frames; a norm already where the square of such a value would be, since it
squares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from spacecompile.errors import BuildError
from spacecompile.export.precision.graph import GraphView
from spacecompile.export.precision.halve import halved
from spacecompile.record import Record

HALF_MAX = 65504.0
"""Largest float16, IEEE 754."""

RANGE_SHARE = 0.3
"""Share of float16's range that calibration frames may reach; the rest is room for frames that were not among them."""

_HALF_NORMAL_MIN = 2.0**-14
"""Smallest float16 with all its digits; a constant below it loses some, or becomes zero."""

_ALWAYS_FLOAT = frozenset({"Softmax", "LogSoftmax", "Exp", "Log", "Pow", "ReduceSumSquare", "CumSum"})
_TYPED_BY_ATTRIBUTE = frozenset({"ConstantOfShape", "EyeLike", "Range", "RandomNormalLike", "RandomUniformLike"})
_SQUARING = frozenset(
    {"LayerNormalization", "GroupNormalization", "InstanceNormalization", "ReduceL2", "LpNormalization"}
)


class FloatNode(Record):
    """One node of the network that stays float32.

    Attributes:
        node: Name of the node in the plain graph.
        op: Operator of the node.
        magnitude: Largest value that the node reads or gives over the calibration frames.
        reason: Reason for which the node stays float32.
    """

    node: str
    op: str
    magnitude: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class HalfPlan:
    """What stays float32, by position among the network's nodes, which is the same in every export of the network.

    Attributes:
        ops: Operators of the network's nodes, in order.
        float_nodes: Nodes that stay float32, by position.
        magnitude_max: Largest value inside the network.
    """

    ops: tuple[str, ...]
    float_nodes: Mapping[int, FloatNode]
    magnitude_max: float


def plan_half(model: ModelProto, largest: Mapping[str, float]) -> HalfPlan:
    """Decide what stays float32.

    Args:
        model: float32 graph with inferred types.
        largest: Largest magnitude by tensor name, from `largest_magnitudes`.
    """
    view = GraphView(model)
    nodes = view.network_nodes
    reached = [_magnitude(node, view, largest) for node in nodes]
    float_nodes = {}
    for position, (node, magnitude) in enumerate(zip(nodes, reached, strict=True)):
        reason = _reason(node, magnitude, view)
        if reason:
            float_nodes[position] = FloatNode(node=node.name, op=node.op_type, magnitude=magnitude, reason=reason)
    return HalfPlan(
        ops=tuple(node.op_type for node in nodes), float_nodes=float_nodes, magnitude_max=max(reached, default=0.0)
    )


def in_half(model: ModelProto, plan: HalfPlan) -> ModelProto:
    """The float16 graph of any export of the network that was planned.

    Raises:
        BuildError: If the model holds another network.
    """
    nodes = GraphView(model).network_nodes
    if tuple(node.op_type for node in nodes) != plan.ops:
        raise BuildError(
            f"the network has {len(nodes)} nodes in this export and {len(plan.ops)} in the one whose magnitudes were "
            "measured, or in another order. Build without fp16, and report the checkpoint's spec."
        )
    half_nodes = [node.name for position, node in enumerate(nodes) if position not in plan.float_nodes]
    return halved(model, half_nodes)


def _magnitude(node: NodeProto, view: GraphView, largest: Mapping[str, float]) -> float:
    """The largest float value that a node reads or gives, its weights included."""
    seen = [largest[name] for name in (*node.input, *node.output) if name in largest]
    seen += [view.largest_weight(name) for name in view.float_tensors(node.input) if name in view.weights]
    return max(seen, default=0.0)


def _lone_constants(node: NodeProto, view: GraphView) -> list[float]:
    """Magnitudes of the single numbers that a node reads, such as what keeps a quotient from dividing by zero."""
    return [
        view.largest_weight(name)
        for name in view.float_tensors(node.input)
        if name in view.weights and math.prod(view.weights[name].dims) == 1
    ]


def _reason(node: NodeProto, magnitude: float, view: GraphView) -> str:
    if node.op_type in _TYPED_BY_ATTRIBUTE:
        return f"{node.op_type} makes float32 by definition"
    if any(0 < constant < _HALF_NORMAL_MIN for constant in _lone_constants(node, view)):
        return "a constant too small for float16"
    if node.op_type in _ALWAYS_FLOAT:
        return f"{node.op_type} loses too much in half precision"
    if magnitude > RANGE_SHARE * HALF_MAX:
        return f"a magnitude above {RANGE_SHARE:.0%} of float16's range"
    if node.op_type in _SQUARING and magnitude**2 > RANGE_SHARE * HALF_MAX:
        return f"the square of a magnitude above {RANGE_SHARE:.0%} of float16's range"
    return ""
