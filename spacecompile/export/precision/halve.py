"""A float32 graph in half precision: weights and activations float16, with explicit float32 islands.

The types are in the file, so a strongly typed engine needs no flag: equal dtypes at every operator, a Cast wherever
half precision and an island meet.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from spacecompile.export.precision.graph import GraphView

_FLOAT_INPUTS = {"Resize": (1, 2)}
"""Inputs that ONNX fixes to float32 whatever the data's type: a Resize's region and scales."""


def halved(model: ModelProto, half_nodes: Collection[str]) -> ModelProto:
    """Give some nodes float16 weights and activations.

    Args:
        model: float32 graph with inferred types; left as it is.
        half_nodes: Names of the nodes to halve. Graph inputs and outputs keep their types all the same.

    Returns:
        The graph with Casts where the two types meet, its types inferred anew.
    """
    work = _Halving(view=GraphView(model), half_nodes=frozenset(half_nodes))
    for node in model.graph.node:
        work.add(node)
    result = ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.initializer[:], result.graph.value_info[:]
    result.graph.node.extend(work.nodes)
    result.graph.initializer.extend(work.read_weights())
    return onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True, data_prop=True)


@dataclass(kw_only=True)
class _Halving:
    view: GraphView
    half_nodes: frozenset[str]
    nodes: list[NodeProto] = field(default_factory=list)
    _half_weights: dict[str, TensorProto] = field(default_factory=dict)
    _is_half: set[str] = field(default_factory=set)
    _cast: dict[tuple[str, int], str] = field(default_factory=dict)

    def add(self, node: NodeProto) -> None:
        """Append a node, its Casts before and behind it."""
        is_half = node.name in self.half_nodes
        changed = NodeProto()
        changed.CopyFrom(node)
        fixed = _FLOAT_INPUTS.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if index not in fixed and self.view.float_tensors([name]):
                changed.input[index] = self._as(name, half=is_half)
        outputs = [graph_output.name for graph_output in self.view.model.graph.output]
        behind = []
        for index, name in enumerate(node.output):
            if is_half and self.view.float_tensors([name]):
                # An output of the graph keeps its name and its type: the node gives another tensor, which is cast back.
                if name in outputs:
                    changed.output[index] = f"{name} made half"
                    behind.append(_cast_node(changed.output[index], name, TensorProto.FLOAT))
                else:
                    self._is_half.add(name)
        # A Cast to float32 between two half nodes would undo the halving.
        if is_half and node.op_type == "Cast":
            _set_cast_type(changed)
        self.nodes += [changed, *behind]

    def read_weights(self) -> list[TensorProto]:
        """Every weight that a node still reads, in order."""
        read = {name for node in self.nodes for name in node.input}
        originals = [weight for weight in self.view.model.graph.initializer if weight.name in read]
        return [*originals, *self._half_weights.values()]

    def _as(self, name: str, *, half: bool) -> str:
        """The name under which a tensor has the wanted type."""
        if name in self.view.weights:
            return self._half_weight(name) if half else name
        if (name in self._is_half) == half:
            return name
        wanted = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        key = (name, wanted)
        if key not in self._cast:
            self._cast[key] = f"{name} {'half' if half else 'float'}"
            self.nodes.append(_cast_node(name, self._cast[key], wanted))
        return self._cast[key]

    def _half_weight(self, name: str) -> str:
        if name not in self._half_weights:
            values = numpy_helper.to_array(self.view.weights[name])
            self._half_weights[name] = numpy_helper.from_array(values.astype(np.float16), f"{name} half")
        return f"{name} half"


def _cast_node(source: str, target: str, data_type: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast {target}", to=data_type)


def _set_cast_type(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
