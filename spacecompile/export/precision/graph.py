"""What the precisions need to know of an ONNX graph: who makes and reads each tensor, and which nodes are the network.

Everything before the network (resize, normalise, views) and after it (softmax of the classes, merged views, masks, box)
stays float32 in every precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

NETWORK_PREFIX = "network."
"""Beginning of the names of the network's weights: the sealed graph holds the network under this name."""

_WEIGHTED = frozenset(
    {
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "DequantizeLinear"),
        *("BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"),
    }
)
"""Operators whose weights are a layer's own. The exporter merges constants of equal value, so that a zero after the
network may go by the name of a bias inside it: the names of other operators' constants say nothing."""


@dataclass(frozen=True)
class GraphView:
    """A read-only look at a model whose tensor types have been inferred.

    Attributes:
        model: Graph in topological order, as ONNX demands.
    """

    model: ModelProto

    @cached_property
    def types(self) -> Mapping[str, int]:
        """Element type of every tensor by name."""
        graph = self.model.graph
        infos = (*graph.value_info, *graph.input, *graph.output)
        types = {info.name: info.type.tensor_type.elem_type for info in infos}
        return types | {weight.name: weight.data_type for weight in graph.initializer}

    @cached_property
    def weights(self) -> Mapping[str, TensorProto]:
        """Initializers by name."""
        return {weight.name: weight for weight in self.model.graph.initializer}

    @cached_property
    def network_nodes(self) -> tuple[NodeProto, ...]:
        """Every node between the network's first and last weights, these included.

        A node is one when it is a layer that reads a weight of the network, or lies on a path from one to another. What
        the network does after its last layer (an upsampling, say) is left out.
        """
        nodes = self.model.graph.node
        after = _reached(nodes)
        before = _reached(reversed(nodes), backwards=True)
        return tuple(node for index, node in enumerate(nodes) if after[index] and before[len(nodes) - 1 - index])

    @cached_property
    def network_outputs(self) -> tuple[str, ...]:
        """Tensors that leave the network, in the order in which they are made.

        Class logits and part logits; where a network ends in a sum of upsampled layers, these layers' outputs.
        """
        return _leaving(self.network_nodes, self.model.graph.node)

    def largest_weight(self, name: str) -> float:
        """Largest magnitude of one initializer."""
        values = numpy_helper.to_array(self.weights[name])
        return float(np.abs(values).max()) if values.size else 0.0

    def float_tensors(self, names: Iterable[str]) -> list[str]:
        """Those of the tensors that are float32, absent optional inputs dropped."""
        return [name for name in names if name and self.types.get(name) == TensorProto.FLOAT]

    def is_activation(self, name: str) -> bool:
        """Whether a tensor depends on the frame."""
        return bool(name) and name not in self.weights


def _leaving(inside: Sequence[NodeProto], nodes: Iterable[NodeProto]) -> tuple[str, ...]:
    """Tensors that some nodes make and others read."""
    names = {node.name for node in inside}
    read_outside = {name for node in nodes if node.name not in names for name in node.input}
    return tuple(name for node in inside for name in node.output if name in read_outside)


def _reached(nodes: Iterable[NodeProto], *, backwards: bool = False) -> list[bool]:
    """For each node whether it, or one that comes before it in this direction, is a layer of the network."""
    marked: set[str] = set()
    reached = []
    for node in nodes:
        entering, leaving = (node.output, node.input) if backwards else (node.input, node.output)
        is_layer = node.op_type in _WEIGHTED and any(name.startswith(NETWORK_PREFIX) for name in node.input)
        is_reached = is_layer or not marked.isdisjoint(entering)
        if is_reached:
            marked.update(name for name in leaving if name)
        reached.append(is_reached)
    return reached
