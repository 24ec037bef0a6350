"""Which nodes of a graph TensorRT would refuse, and why: known before any engine is built.

Each rule was checked against TensorRT's parser. Where a TensorRT module is installed, its own parser can be asked as
well (`build_plan.refused_nodes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from spacecompile.errors import BuildError
from spacecompile.export.engine.legality_records import IllegalNode, LegalityReport

_OPSET_MAX = 23
"""Newest version of the ONNX operators that TensorRT's parser reads."""

# Not in TensorRT, or of a shape that depends on the data.
_ILLEGAL_OPS = frozenset(
    (
        *("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Compress", "If", "Loop"),
        *("NonMaxSuppression", "NonZero", "Scan", "SequenceAt", "SequenceConstruct", "Unique"),
        "Attention",  # parsed, but TensorRT-RTX 1.7.1's builder crashes on it
    )
)
_UNREDUCIBLE_TYPES = (TensorProto.BOOL, TensorProto.UINT8)


def legality_of(
    model_bytes: bytes, *, parser_name: str | None = None, refused: Iterable[IllegalNode] = ()
) -> LegalityReport:
    """Judge a graph by the rules, and join what a parser said of it.

    Args:
        model_bytes: Content of a whole ONNX file.
        parser_name: Library and version of the parser that was asked, if any.
        refused: Nodes that the parser refuses.

    Raises:
        BuildError: If the file is no ONNX model, or its shapes can't be inferred.
    """
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(model_bytes), data_prop=True)
    except (DecodeError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(f"the graph is no sound ONNX file: {error}. Build the bundle again.") from error
    by_rules = illegal_nodes(model)
    named = {(problem.op, problem.node) for problem in by_rules}
    return LegalityReport(
        checked_by=("rules", *([parser_name] if parser_name else [])),
        nodes=len(model.graph.node),
        ops=dict(Counter(node.op_type for node in model.graph.node).most_common()),
        illegal=(*by_rules, *(problem for problem in refused if (problem.op, problem.node) not in named)),
    )


def illegal_nodes(model: ModelProto) -> tuple[IllegalNode, ...]:
    """What in a graph TensorRT would refuse, by the rules; empty for a portable graph.

    Equal dtypes at every operator are the ONNX checker's to judge.

    Args:
        model: Graph with inferred types and shapes.
    """
    graph = model.graph
    tensors = {info.name: info.type.tensor_type for info in (*graph.value_info, *graph.input, *graph.output)}
    types = {name: tensor.elem_type for name, tensor in tensors.items()}
    types.update({weight.name: weight.data_type for weight in graph.initializer})
    weights = {weight.name: weight for weight in graph.initializer}
    problems = [
        IllegalNode(op=node.op_type, node=node.name, reason=reason)
        for node in graph.node
        for reason in (*_reasons(node, types), *_quantisation_reasons(node, types, weights))
    ]
    for name, tensor in tensors.items():
        if not all(extent.HasField("dim_value") for extent in tensor.shape.dim):
            problems.append(_of_graph(f"tensor {name} has a shape that is not fixed"))
    for opset in model.opset_import:
        if opset.domain not in {"", "ai.onnx"}:
            problems.append(_of_graph(f"operators of {opset.domain!r} are not standard ONNX"))
        elif opset.version > _OPSET_MAX:
            problems.append(_of_graph(f"opset {opset.version} is above {_OPSET_MAX}"))
    return tuple(problems)


def _of_graph(reason: str) -> IllegalNode:
    return IllegalNode(op="", node="", reason=reason)


def _reasons(node: NodeProto, types: Mapping[str, int]) -> Iterator[str]:
    # An absent optional input has the name "".
    read_types = [types.get(name) for name in node.input if name]
    if node.op_type in _ILLEGAL_OPS:
        yield "is not in the portable set"
    if node.op_type == "Resize" and any(attribute.name == "antialias" and attribute.i for attribute in node.attribute):
        yield "is antialiased"
    if node.op_type.startswith("Reduce") and read_types[0] in _UNREDUCIBLE_TYPES:
        yield "reduces bytes or bools; cast them first"
    if node.op_type != "Cast" and TensorProto.UINT8 in read_types:
        yield "reads bytes; only a Cast may"
    for name in node.output:
        if name and name not in types:
            yield f"gives {name!r} of unknown type"


def _quantisation_reasons(
    node: NodeProto, types: Mapping[str, int], weights: Mapping[str, TensorProto]
) -> Iterator[str]:
    """TensorRT quantises symmetrically, to 8 bits, and keeps biases in floating point."""
    if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}:
        return
    if types.get(node.input[0]) == TensorProto.INT32:
        yield "dequantises int32; keep biases in floating point"
    zero_point = node.input[2] if len(node.input) > 2 else ""
    if not zero_point:
        return
    if zero_point not in weights:
        yield "has a zero point that is not a constant"
    elif numpy_helper.to_array(weights[zero_point]).any():
        yield "has a zero point that is not 0; quantise symmetrically"
