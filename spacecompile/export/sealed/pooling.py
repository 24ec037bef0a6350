"""Largest and smallest values written as global pooling, which every engine has a kernel for.

ONNX Runtime's CUDA kernels of ReduceMax and ReduceMin stop at opset 19, and Gelu begins at 20: in a file of opset 20
these nodes would run on the CPU, with copies in between, and no CUDA graph could be captured. GlobalMaxPool has had
one meaning since opset 1. On the CPU it is no slower (the decision of 2026-11-25 has the numbers).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

_EXTREMA = {"ReduceMax", "ReduceMin"}
_POOLED_TYPES = {TensorProto.FLOAT, TensorProto.FLOAT16}

_Step = tuple[str, list[str], dict[str, Any]]
"""Operator, further inputs by name, attributes."""


def pool_extrema(model: ModelProto) -> None:
    """Replace, in place, every ReduceMax and ReduceMin by a GlobalMaxPool of the same values, to the last bit.

    Not of NaN, which ONNX Runtime's pooling passes over on a CPU (1.32): what shall tell of one has to be a sum. Nodes
    on integers or doubles, or of shapes that are not known, stay.

    Args:
        model: Graph with inferred types and shapes; those of the new tensors are not inferred.
    """
    graph = model.graph
    tensors = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    constants = {initializer.name: initializer for initializer in graph.initializer}
    nodes: list[NodeProto] = []
    shapes: dict[str, Sequence[int]] = {}
    for node in graph.node:
        nodes += _pooled(node, tensors, constants, shapes) or [node]
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in graph.node for name in node.input}
    for unread in [it for it in graph.initializer if it.name not in read]:
        graph.initializer.remove(unread)
    graph.initializer.extend(numpy_helper.from_array(np.array(shape, np.int64), name) for name, shape in shapes.items())


def _pooled(
    node: NodeProto,
    tensors: Mapping[str, onnx.ValueInfoProto],
    constants: Mapping[str, TensorProto],
    shapes: dict[str, Sequence[int]],
) -> list[NodeProto]:
    """What takes the place of a node; nothing where it stays. Adds the shapes that it reads to `shapes`."""
    if node.op_type not in _EXTREMA or not {node.input[0], node.output[0]} <= tensors.keys():
        return []
    shape, reduced = _shape_of(tensors[node.input[0]]), _shape_of(tensors[node.output[0]])
    is_float = tensors[node.input[0]].type.tensor_type.elem_type in _POOLED_TYPES
    if not shape or reduced is None or not is_float:
        return []
    axes = _axes_of(node, constants, len(shape))
    if not axes:
        return []
    is_picture = len(shape) == 4 and axes == [2, 3]
    steps: list[_Step] = [] if is_picture else list(_as_picture(node, shape, axes, shapes))
    # There is no global minimum pool: the least value is the largest of the negatives.
    around: list[_Step] = [("Neg", [], {})] * (node.op_type == "ReduceMin")
    steps += [*around, ("GlobalMaxPool", [], {}), *around]
    if not is_picture or reduced != [*shape[:2], 1, 1]:
        result = f"{node.output[0]} shape"
        shapes[result] = reduced
        steps.append(("Reshape", [result], {}))
    return list(_chain(steps, node))


def _as_picture(
    node: NodeProto, shape: Sequence[int], axes: Sequence[int], shapes: dict[str, Sequence[int]]
) -> Iterator[_Step]:
    """What is reduced becomes the only row of a picture, everything else its channels."""
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    if [*kept, *axes] != list(range(len(shape))):
        yield "Transpose", [], {"perm": [*kept, *axes]}
    rows = f"{node.output[0]} rows"
    shapes[rows] = (1, math.prod(shape[axis] for axis in kept), 1, math.prod(shape[axis] for axis in axes))
    yield "Reshape", [rows], {}


def _chain(steps: Sequence[_Step], node: NodeProto) -> Iterator[NodeProto]:
    value = node.input[0]
    for index, (op_type, inputs, attributes) in enumerate(steps):
        is_last = index == len(steps) - 1
        output = node.output[0] if is_last else f"{node.output[0]} {op_type} {index}"
        yield helper.make_node(op_type, [value, *inputs], [output], name=f"{op_type} of {output}", **attributes)
        value = output


def _shape_of(value: onnx.ValueInfoProto) -> list[int] | None:
    dims = value.type.tensor_type.shape.dim
    if not value.type.tensor_type.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        return None
    return [dim.dim_value for dim in dims]


def _axes_of(node: NodeProto, constants: Mapping[str, TensorProto], rank: int) -> list[int]:
    """Sorted and counted from the front; empty where they are not known or there are none."""
    if len(node.input) < 2 or not node.input[1]:
        return list(range(rank))
    if node.input[1] not in constants:
        return []
    return sorted(axis % rank for axis in numpy_helper.to_array(constants[node.input[1]]).tolist())
