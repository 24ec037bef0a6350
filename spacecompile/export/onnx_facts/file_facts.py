"""What an ONNX file holds and in which precision it computes, read back from its bytes.

A file's name says what it was meant to be; these facts say what it is. Every node that multiplies and adds counts with
its multiply-adds, so that one large layer left in float32 weighs what it costs.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from spacecompile.errors import IntegrityError, first_line_of
from spacecompile.record import Record

_TYPE_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}
_QUANTISED = frozenset({TensorProto.INT8, TensorProto.UINT8})
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
        macs: Multiply-adds of all its nodes.
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
    model = with_shapes(model_bytes)
    graph = model.graph
    constants = list(graph_constants(graph))
    types, shapes = tensor_types(graph, constants), tensor_shapes(graph, constants)
    dequantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    nodes, uncounted = [], []
    for node in graph.node:
        if node.op_type not in _MACS:
            continue
        macs = macs_of(node, shapes)
        if macs is None:
            uncounted.append(node.name or node.output[0])
            continue
        kind = compute_type(node, types, dequantised)
        nodes.append(MacNode(name=node.name or node.output[0], op=node.op_type, type=kind, macs=macs))
    macs_by_type: Counter[str] = Counter()
    for mac_node in nodes:
        macs_by_type[mac_node.type] += mac_node.macs
    weights = list(_weights(graph, constants))
    return GraphFacts(
        inputs=tuple(map(_tensor_facts, graph.input)),
        outputs=tuple(map(_tensor_facts, graph.output)),
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        ops=dict(sorted(Counter(map(_op_name, graph.node)).items(), key=lambda item: (-item[1], item[0]))),
        weight_bytes=_summed(weights, _num_bytes),
        weight_shares=_shares(_summed(weights, lambda weight: math.prod(weight.dims))),
        macs=sum(macs_by_type.values()),
        mac_shares=_shares(macs_by_type),
        mac_nodes=tuple(nodes),
        islands=_islands(graph, types, nodes) if _is_short_float(macs_by_type) else (),
        uncounted=tuple(uncounted),
    )


def with_shapes(model_bytes: bytes) -> ModelProto:
    """The graph of a file, with the types and shapes of all tensors inferred.

    Raises:
        IntegrityError: If it is no valid ONNX file.
    """
    try:
        model = onnx.load_model_from_string(model_bytes)
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (DecodeError, onnx.shape_inference.InferenceError, ValueError) as error:
        reason = first_line_of(error)
        raise IntegrityError(
            f"the graph is no valid ONNX file: {reason}. Build the bundle again with `spacecompile build`."
        ) from error


def tensor_types(graph: GraphProto, constants: Sequence[TensorProto]) -> dict[str, int]:
    """ONNX's number of every tensor's type."""
    infos = (*graph.value_info, *graph.input, *graph.output)
    return {info.name: info.type.tensor_type.elem_type for info in infos} | {
        constant.name: constant.data_type for constant in constants
    }


def tensor_shapes(graph: GraphProto, constants: Sequence[TensorProto]) -> dict[str, Shape]:
    """Every fixed shape; a tensor with an open one is left out."""
    infos = (*graph.value_info, *graph.input, *graph.output)
    shapes: dict[str, Shape] = {}
    for info in infos:
        shape = _shape_of(info)
        if shape is not None and None not in shape:
            shapes[info.name] = tuple(extent for extent in shape if extent is not None)
    return shapes | {constant.name: tuple(constant.dims) for constant in constants}


def graph_constants(graph: GraphProto) -> Iterator[TensorProto]:
    """Initializers, and the tensors of Constant nodes under the names of their outputs."""
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    constant = TensorProto()
                    constant.CopyFrom(attribute.t)
                    constant.name = node.output[0]
                    yield constant


def _weights(graph: GraphProto, constants: Sequence[TensorProto]) -> Iterator[TensorProto]:
    quantisers = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    of_quantisation = {name for node in quantisers for name in node.input[1:]}
    of_quantisation |= {
        node.input[index]
        for node in graph.node
        for index in _QUANTISER_INPUTS.get(node.op_type, ())
        if index < len(node.input)
    }
    # A quantised bias is int32, which elsewhere is an index.
    dequantised = {node.input[0] for node in quantisers if node.op_type == "DequantizeLinear"}
    for constant in constants:
        if constant.name not in of_quantisation and (
            constant.data_type in _WEIGHT_TYPES or constant.name in dequantised
        ):
            yield constant


def _summed(weights: Sequence[TensorProto], amount: Callable[[TensorProto], int]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for weight in weights:
        sums[_type_name(weight.data_type)] += amount(weight)
    return dict(sorted(sums.items()))


def _num_bytes(weight: TensorProto) -> int:
    itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize
    return int(math.prod(weight.dims)) * itemsize


def _shares(amounts: Mapping[str, int]) -> dict[str, float]:
    total = sum(amounts.values())
    return {name: amount / total for name, amount in sorted(amounts.items())} if total else {}


def _conv_macs(inputs: Sequence[Shape], outputs: Sequence[Shape], _: NodeProto) -> int:
    weight_shape = inputs[1]  # [M, C / groups, ...]
    return math.prod(outputs[0]) * math.prod(weight_shape[1:])


def _conv_transpose_macs(inputs: Sequence[Shape], _: Sequence[Shape], __: NodeProto) -> int:
    weight_shape = inputs[1]  # [C, M / groups, ...]
    return math.prod(inputs[0]) * math.prod(weight_shape[1:])


def _matmul_macs(inputs: Sequence[Shape], outputs: Sequence[Shape], _: NodeProto) -> int:
    return math.prod(outputs[0]) * inputs[0][-1]


def _gemm_macs(inputs: Sequence[Shape], outputs: Sequence[Shape], node: NodeProto) -> int:
    is_transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(outputs[0]) * inputs[0][0 if is_transposed else -1]


_MacCounter = Callable[[Sequence[Shape], Sequence[Shape], NodeProto], int]
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
# Scales and zero points of the operators that carry their own.
_QUANTISER_INPUTS = {
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
}


def macs_of(node: NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Multiply-adds of a node; None where a shape is unknown, 0 for an operator that has none."""
    if node.op_type not in _MACS:
        return 0
    count, factors = _MACS[node.op_type]
    inputs = [shapes.get(node.input[index]) for index in factors]
    output = shapes.get(node.output[0])
    known = [shape for shape in inputs if shape is not None]
    return count(known, [output], node) if output is not None and len(known) == len(inputs) else None


def compute_type(node: NodeProto, types: Mapping[str, int], dequantised: set[str]) -> str:
    """What a node that multiplies and adds does so in, as the file says."""
    factors = [node.input[index] for index in _MACS[node.op_type][1]]
    if all(name in dequantised for name in factors):
        return "int8"
    element = types.get(factors[0], TensorProto.UNDEFINED)
    return "int8" if element in _QUANTISED else _type_name(element)


def _is_short_float(macs_by_type: Counter[str]) -> bool:
    most = macs_by_type.most_common(1)
    return bool(most) and most[0][0] in ("fp16", "bf16")


def _islands(graph: GraphProto, types: Mapping[str, int], mac_nodes: Sequence[MacNode]) -> tuple[Island, ...]:
    """Regions of nodes that exchange float32 tensors; the casts at their shores are not counted in."""
    macs = {node.name: node.macs for node in mac_nodes}
    inside = [node for node in graph.node if node.op_type not in ("Cast", "Constant") and _is_float32(node, types)]
    region_of: dict[str, int] = {}
    members: dict[int, list[NodeProto]] = defaultdict(list)
    for number, node in enumerate(inside):
        touching = {region_of[name] for name in node.input if name in region_of}
        region = min(touching, default=number)
        for other in touching - {region}:
            members[region] += members.pop(other)
            region_of |= {name: region for name, owner in region_of.items() if owner == other}
        members[region].append(node)
        region_of |= {name: region for name in node.output if types.get(name) == TensorProto.FLOAT}
    order = {id(node): index for index, node in enumerate(inside)}
    regions = [sorted(nodes, key=lambda node: order[id(node)]) for nodes in members.values()]
    return tuple(
        Island(
            first=nodes[0].name or nodes[0].output[0],
            ops=dict(sorted(Counter(map(_op_name, nodes)).items())),
            macs=sum(macs.get(node.name or node.output[0], 0) for node in nodes),
        )
        for nodes in sorted(regions, key=lambda nodes: order[id(nodes[0])])
    )


def _is_float32(node: NodeProto, types: Mapping[str, int]) -> bool:
    # Not by all inputs: the scales of a Resize are float32 whatever it resizes.
    return any(types.get(name) == TensorProto.FLOAT for name in (*node.input[:1], *node.output))


def _tensor_facts(info: ValueInfoProto) -> TensorFacts:
    return TensorFacts(name=info.name, type=_type_name(info.type.tensor_type.elem_type), shape=_shape_of(info) or ())


def _shape_of(info: ValueInfoProto) -> tuple[int | None, ...] | None:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(extent.dim_value if extent.HasField("dim_value") else None for extent in tensor.shape.dim)


def _op_name(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _type_name(element: int) -> str:
    return _TYPE_NAMES.get(element) or str(TensorProto.DataType.Name(element)).lower()
