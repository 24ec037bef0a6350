"""What an ONNX file holds and in which precision it computes, read back from its bytes.

A file's name says what it was meant to be; these facts say what it is. Every node that multiplies and adds counts with
its multiply-adds, so that one large layer left in float32 weighs what it costs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from spacecompile.errors import IntegrityError, first_line_of
from spacecompile.record import Record

_TYPE_NAMES = {
    ir.DataType.FLOAT: "fp32",
    ir.DataType.FLOAT16: "fp16",
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.DOUBLE: "fp64",
}
_QUANTISED = frozenset({ir.DataType.INT8, ir.DataType.UINT8})
_WEIGHT_TYPES = frozenset(_TYPE_NAMES) | _QUANTISED

Shape = tuple[int, ...]


class TensorFacts(Record):
    """One input or output of a graph.

    Attributes:
        name: Name of the tensor.
        type: Element type, for example `fp32` or `uint8`.
        shape: Extent of each axis; None where it is not fixed.
    """

    name: str
    type: str
    shape: tuple[int | None, ...]


class MacNode(Record):
    """One node that multiplies and adds.

    Attributes:
        name: Name of the node.
        op: Operator of the node.
        type: Type that the node multiplies in; `int8` too where both factors come from a DequantizeLinear.
        macs: Multiply-adds of the node.
    """

    name: str
    op: str
    type: str
    macs: int


class Island(Record):
    """Connected nodes that compute in float32 inside a file of a shorter float.

    Attributes:
        first: Name of the first node, in graph order.
        ops: Number of nodes per operator.
        macs: Multiply-adds of all nodes of the island.
    """

    first: str
    ops: dict[str, int]
    macs: int


class GraphFacts(Record):
    """What one ONNX file is.

    Attributes:
        inputs, outputs: Inputs and outputs of the graph.
        opset: Version of the standard operators.
        ops: Nodes per operator, the most frequent first; operators of other domains as `domain.operator`.
        weight_bytes: Bytes of the weights per stored type. Weights are the constants of a float or an eight-bit type
            and quantised biases; scales and zero points of quantisation, indices and shapes are none.
        weight_shares: Share of the number of weights per stored type, 0 to 1.
        macs: Multiply-adds of the whole graph, all views of test-time augmentation included.
        mac_shares: Share of `macs` per type that they are done in, 0 to 1.
        mac_nodes: Every node that multiplies and adds, in graph order.
        islands: Regions in float32 where most multiply-adds are done in fp16 or bf16, in graph order.
        uncounted: Nodes that multiply and add but whose shapes are unknown; they are in no share.
    """

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    opset: int
    ops: dict[str, int]
    weight_bytes: dict[str, int]
    weight_shares: dict[str, float]
    macs: int
    mac_shares: dict[str, float]
    mac_nodes: tuple[MacNode, ...]
    islands: tuple[Island, ...]
    uncounted: tuple[str, ...]


def graph_facts(model_bytes: bytes) -> GraphFacts:
    """Read the facts of one file.

    Args:
        model_bytes: Content of a whole ONNX file.

    Raises:
        IntegrityError: If it is no valid ONNX file.
    """
    graph = with_shapes(model_bytes)
    nodes, uncounted = [], []
    for node in (node for node in graph if node.op_type in _MACS):
        macs = macs_of(node)
        if macs is None:
            uncounted.append(_name(node))
        else:
            nodes.append(MacNode(name=_name(node), op=node.op_type, type=compute_type(node), macs=macs))
    macs_by_type: Counter[str] = Counter()
    for mac_node in nodes:
        macs_by_type[mac_node.type] += mac_node.macs
    weights = [constant for constant in graph_constants(graph) if _is_weight(constant)]
    return GraphFacts(
        inputs=tuple(map(_tensor_facts, graph.inputs)),
        outputs=tuple(map(_tensor_facts, graph.outputs)),
        opset=graph.opset_imports.get("", 0),
        ops=dict(sorted(Counter(map(_op_name, graph)).items(), key=lambda item: (-item[1], item[0]))),
        weight_bytes=_summed(weights, lambda weight: num_bytes(weight) or 0),
        weight_shares=_shares(_summed(weights, lambda weight: math.prod(_fixed_shape(weight) or ()))),
        macs=sum(macs_by_type.values()),
        mac_shares=_shares(macs_by_type),
        mac_nodes=tuple(nodes),
        islands=_islands(graph, nodes) if _is_short_float(macs_by_type) else (),
        uncounted=tuple(uncounted),
    )


def with_shapes(model_bytes: bytes) -> ir.Graph:
    """The graph of a file, with the types and shapes of all tensors inferred.

    Raises:
        IntegrityError: If it is no valid ONNX file.
    """
    try:
        model = onnx.load_model_from_string(model_bytes)
        return ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True)).graph
    except (DecodeError, onnx.shape_inference.InferenceError, ValueError, ir.serde.SerdeError) as error:
        reason = first_line_of(error)
        raise IntegrityError(
            f"the graph is no valid ONNX file: {reason}. Build the bundle again with `spacecompile build`."
        ) from error


def _fixed_shape(value: ir.Value | None) -> Shape | None:
    """The shape of a tensor; None where it is not fixed or not known."""
    return value.shape.numpy() if value is not None and value.shape is not None and value.shape.is_static() else None


def num_bytes(value: ir.Value) -> int | None:
    """The size of a tensor of numbers; None where shape or type is open, and for sequences and strings."""
    shape, dtype = _fixed_shape(value), value.dtype if isinstance(value.type, ir.TensorType) else None
    if shape is None or dtype in (None, ir.DataType.UNDEFINED, ir.DataType.STRING):
        return None
    return math.ceil(math.prod(shape) * dtype.itemsize)


def graph_constants(graph: ir.Graph) -> list[ir.Value]:
    """Initializers, and the tensors of Constant nodes."""
    made = [node.outputs[0] for node in graph if node.op_type == "Constant" and "value" in node.attributes]
    return [*graph.initializers.values(), *made]


def _is_weight(constant: ir.Value) -> bool:
    uses = [(use.node.op_type, use.idx) for use in constant.uses()]
    if any(index in _QUANTISER_INPUTS.get(op_type, ()) for op_type, index in uses):
        return False
    # A quantised bias is int32, which elsewhere is an index.
    return constant.dtype in _WEIGHT_TYPES or ("DequantizeLinear", 0) in uses


def _summed(weights: Sequence[ir.Value], amount: Callable[[ir.Value], int]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for weight in weights:
        sums[_type_name(weight.dtype)] += amount(weight)
    return dict(sorted(sums.items()))


def _shares(amounts: Mapping[str, int]) -> dict[str, float]:
    total = sum(amounts.values())
    return {name: amount / total for name, amount in sorted(amounts.items())} if total else {}


def _conv_macs(inputs: Sequence[Shape], outputs: Sequence[Shape], _: ir.Node) -> int:
    weight_shape = inputs[1]  # [M, C / groups, ...]
    return math.prod(outputs[0]) * math.prod(weight_shape[1:])


def _conv_transpose_macs(inputs: Sequence[Shape], _: Sequence[Shape], __: ir.Node) -> int:
    weight_shape = inputs[1]  # [C, M / groups, ...]
    return math.prod(inputs[0]) * math.prod(weight_shape[1:])


def _matmul_macs(inputs: Sequence[Shape], outputs: Sequence[Shape], _: ir.Node) -> int:
    return math.prod(outputs[0]) * inputs[0][-1]


def _gemm_macs(inputs: Sequence[Shape], outputs: Sequence[Shape], node: ir.Node) -> int:
    is_transposed = node.attributes.get_int("transA", 0)
    return math.prod(outputs[0]) * inputs[0][0 if is_transposed else -1]


_MacCounter = Callable[[Sequence[Shape], Sequence[Shape], ir.Node], int]
# Per operator: how its multiply-adds are counted, and where its two factors are among its inputs.
_MACS: dict[str, tuple[_MacCounter, tuple[int, int]]] = {
    "Conv": (_conv_macs, (0, 1)),
    "ConvTranspose": (_conv_transpose_macs, (0, 1)),
    "MatMul": (_matmul_macs, (0, 1)),
    "Gemm": (_gemm_macs, (0, 1)),
    "ConvInteger": (_conv_macs, (0, 1)),
    "MatMulInteger": (_matmul_macs, (0, 1)),
    "QLinearConv": (_conv_macs, (0, 3)),
    "QLinearMatMul": (_matmul_macs, (0, 3)),
}
# Scales and zero points.
_QUANTISER_INPUTS = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
}


def macs_of(node: ir.Node) -> int | None:
    """Multiply-adds of a node; None where a shape is unknown, 0 for an operator that has none."""
    if node.op_type not in _MACS:
        return 0
    count, factors = _MACS[node.op_type]
    inputs = [shape for index in factors if (shape := _fixed_shape(node.inputs[index])) is not None]
    output = _fixed_shape(node.outputs[0])
    return count(inputs, [output], node) if output is not None and len(inputs) == len(factors) else None


def compute_type(node: ir.Node) -> str:
    """What a node that multiplies and adds does so in, as the file says."""
    factors = [value for index in _MACS[node.op_type][1] if (value := node.inputs[index]) is not None]
    if all(dequantised(value) for value in factors):
        return "int8"
    return "int8" if factors[0].dtype in _QUANTISED else _type_name(factors[0].dtype)


def dequantised(value: ir.Value) -> ir.Value | None:
    """The quantised tensor behind a value that comes from a DequantizeLinear; None for any other value."""
    producer = value.producer()
    return producer.inputs[0] if producer is not None and producer.op_type == "DequantizeLinear" else None


def _is_short_float(macs_by_type: Counter[str]) -> bool:
    most = macs_by_type.most_common(1)
    return bool(most) and most[0][0] in ("fp16", "bf16")


def _islands(graph: ir.Graph, mac_nodes: Sequence[MacNode]) -> tuple[Island, ...]:
    """Regions of nodes that exchange float32 tensors; the casts at their shores are not counted in."""
    macs = {node.name: node.macs for node in mac_nodes}
    inside = [node for node in graph if node.op_type not in ("Cast", "Constant") and _is_float32(node)]
    region_of: dict[ir.Value, int] = {}
    members: dict[int, list[ir.Node]] = defaultdict(list)
    for number, node in enumerate(inside):
        touching = {region_of[value] for value in node.inputs if value in region_of}
        region = min(touching, default=number)
        for other in touching - {region}:
            members[region] += members.pop(other)
            region_of |= {value: region for value, owner in region_of.items() if owner == other}
        members[region].append(node)
        region_of |= {value: region for value in node.outputs if value.dtype == ir.DataType.FLOAT}
    order = {node: index for index, node in enumerate(inside)}
    regions = [sorted(nodes, key=lambda node: order[node]) for nodes in members.values()]
    return tuple(
        Island(
            first=_name(nodes[0]),
            ops=dict(sorted(Counter(map(_op_name, nodes)).items())),
            macs=sum(macs.get(_name(node), 0) for node in nodes),
        )
        for nodes in sorted(regions, key=lambda nodes: order[nodes[0]])
    )


def _is_float32(node: ir.Node) -> bool:
    # Not by all inputs: the scales of a Resize are float32 whatever it resizes.
    values: Iterable[ir.Value | None] = (*node.inputs[:1], *node.outputs)
    return any(value is not None and value.dtype == ir.DataType.FLOAT for value in values)


def _tensor_facts(value: ir.Value) -> TensorFacts:
    shape = tuple(extent if isinstance(extent, int) else None for extent in value.shape or ())
    return TensorFacts(name=value.name or "", type=_type_name(value.dtype), shape=shape)


def _name(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or ""


def _op_name(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _type_name(dtype: ir.DataType | None) -> str:
    element = dtype or ir.DataType.UNDEFINED
    return _TYPE_NAMES.get(element, element.name.lower())
