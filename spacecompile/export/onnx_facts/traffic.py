"""What the nodes of an ONNX file multiply and move, each alone and in groups that an engine fuses.

The bytes are the least that must pass: every tensor once in, once out, in the type that the file stores it in. What
stays inside a group is not moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spacecompile.export.onnx_facts.file_facts import (
    compute_type,
    dequantised,
    graph_constants,
    macs_of,
    num_bytes,
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
    graph = with_shapes(model_bytes)
    nodes: dict[str, NodeWork] = {}
    for node in graph:
        macs = macs_of(node) or 0
        # As `to_onnx` names the nodes of a file that has some without a name.
        is_named = node.name and node.name not in nodes
        work = NodeWork(
            name=str(node.name) if is_named else f"{node.op_type} of {node.outputs[0].name}",
            op=node.op_type,
            macs=macs,
            type=compute_type(node) if macs else "",
            reads=tuple(str((dequantised(value) or value).name) for value in node.inputs if value is not None),
            writes=tuple(str(value.name) for value in node.outputs),
        )
        nodes[work.name] = work
    used = {name for node in nodes.values() for name in node.reads}
    constants = graph_constants(graph)
    weights = {str(constant.name) for constant in constants} & used
    boundary = frozenset(weights | {str(value.name) for value in (*graph.inputs, *graph.outputs)})
    values = (*graph.inputs, *constants, *(value for node in graph for value in node.outputs))
    tensor_bytes = {str(value.name): size for value in values if (size := num_bytes(value)) is not None}
    return GraphTraffic(nodes=nodes, tensor_bytes=tensor_bytes, boundary=boundary)
