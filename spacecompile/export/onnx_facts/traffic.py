"""What the nodes of an ONNX file multiply and move, each alone and in groups that an engine fuses.

The bytes are the least that must pass: every tensor once in, once out, in the type that the file stores it in. What
stays inside a group is not moved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto

from spacecompile.export.onnx_facts.file_facts import (
    compute_type,
    graph_constants,
    macs_of,
    tensor_shapes,
    tensor_types,
    with_shapes,
)


@dataclass(frozen=True, kw_only=True)
class NodeWork:
    """The work of one node.

    Attributes:
        name, op: Name and operator of the node.
        macs: Multiply-adds of the node; 0 where a shape is unknown.
        type: Type that the node multiplies in; empty for one that does not multiply.
        reads, writes: Names of the tensors that the node takes and gives; weights behind a DequantizeLinear by the name
            of the quantised tensor.
    """

    name: str
    op: str
    macs: int
    type: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GraphTraffic:
    """The work of a whole graph.

    Attributes:
        nodes: Work of each node by its name, in graph order.
        tensor_bytes: Size of each tensor by its name; tensors of unknown size are absent.
        boundary: Names of inputs, outputs and weights, which must pass however much is fused.
    """

    nodes: Mapping[str, NodeWork]
    tensor_bytes: Mapping[str, int]
    boundary: frozenset[str]

    @property
    def macs_by_type(self) -> dict[str, int]:
        """Multiply-adds of the graph per type that they are done in."""
        sums: dict[str, int] = {}
        for node in self.nodes.values():
            if node.macs:
                sums[node.type] = sums.get(node.type, 0) + node.macs
        return sums

    @property
    def boundary_bytes(self) -> int:
        """Bytes of inputs, outputs and weights, each once."""
        return sum(self.tensor_bytes.get(name, 0) for name in self.boundary)

    def known(self, names: frozenset[str]) -> tuple[NodeWork, ...]:
        """The nodes that bear one of the names, or give a tensor that does, in graph order."""
        return tuple(node for name, node in self.nodes.items() if name in names or not names.isdisjoint(node.writes))

    def moved_bytes(self, group: Sequence[NodeWork]) -> int:
        """Bytes that go into and out of a group of nodes."""
        written = {name for node in group for name in node.writes}
        read = {name for node in group for name in node.reads}
        members = {node.name for node in group}
        wanted = {
            name for node in self.nodes.values() if node.name not in members for name in node.reads if name in written
        }
        outside = (read - written) | wanted | (written & self.boundary)
        return sum(self.tensor_bytes.get(name, 0) for name in outside)


def graph_traffic(model_bytes: bytes) -> GraphTraffic:
    """Read the work of one file.

    Args:
        model_bytes: Content of a whole ONNX file.

    Raises:
        IntegrityError: If it is no valid ONNX file.
    """
    graph = with_shapes(model_bytes).graph
    fixed = list(graph_constants(graph))
    types, shapes = tensor_types(graph, fixed), tensor_shapes(graph, fixed)
    stored = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    nodes: dict[str, NodeWork] = {}
    for node in graph.node:
        macs = macs_of(node, shapes) or 0
        # As `to_onnx` names the nodes of a file that has some without a name.
        is_named = node.name and node.name not in nodes
        work = NodeWork(
            name=node.name if is_named else f"{node.op_type} of {node.output[0]}",
            op=node.op_type,
            macs=macs,
            type=compute_type(node, types, set(stored)) if macs else "",
            reads=tuple(stored.get(name, name) for name in _inputs(node)),
            writes=tuple(node.output),
        )
        nodes[work.name] = work
    used = {name for node in nodes.values() for name in node.reads}
    weights = {constant.name for constant in fixed} & used
    boundary = frozenset(weights | {info.name for info in (*graph.input, *graph.output)})
    tensor_bytes = {
        name: math.prod(shape) * onnx.helper.tensor_dtype_to_np_dtype(types[name]).itemsize
        for name, shape in shapes.items()
        if types.get(name)
    }
    return GraphTraffic(nodes=nodes, tensor_bytes=tensor_bytes, boundary=boundary)


def _inputs(node: NodeProto) -> list[str]:
    return [name for name in node.input if name]
