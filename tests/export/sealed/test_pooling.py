from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, parser
from onnx.reference import ReferenceEvaluator

from spacecompile.export.sealed.pooling import pool_extrema


def model_of(call: str, shape: str, *, axes: str = "", dtype: str = "float") -> ModelProto:
    weights = f"<int64[{axes.count(',') + 1}] axes = {{{axes}}}>" if axes else ""
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g ({dtype}[{shape}] x) => ({dtype} y) {weights} {{ y = {call} }}'
    )
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def run(model: ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    answer: NDArray[np.float32] = ReferenceEvaluator(model).run(None, {"x": x})[0]
    return answer


@pytest.mark.parametrize("reduction", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize(
    ("shape", "axes", "keepdims"),
    [
        pytest.param((6, 5), "-1", 0, id="rows"),
        pytest.param((6, 5), "-2", 0, id="columns"),
        pytest.param((6, 5), "0,1", 0, id="all named"),
        pytest.param((6, 5), "", 1, id="all, with their axes"),
        pytest.param((2, 3, 4, 5), "3,1", 1, id="two that are not neighbours"),
        pytest.param((1, 3, 4, 5), "2,3", 0, id="a picture"),
        pytest.param((7,), "0", 0, id="vector to one value"),
    ],
)
def test_a_pool_gives_the_same_values_in_the_same_shape(
    reduction: str, shape: tuple[int, ...], axes: str, keepdims: int
) -> None:
    arguments = "(x, axes)" if axes else "(x)"
    model = model_of(f"{reduction}<keepdims={keepdims}>{arguments}", ",".join(map(str, shape)), axes=axes)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = run(model, x)
    pool_extrema(model)
    onnx.checker.check_model(model, full_check=True)
    assert {"GlobalMaxPool"} <= {node.op_type for node in model.graph.node} <= POOLED
    answer = run(model, x)
    assert answer.shape == expected.shape
    np.testing.assert_array_equal(answer, expected)


POOLED = {"Transpose", "Reshape", "Neg", "GlobalMaxPool"}


@pytest.mark.parametrize(
    ("reduction", "dtype", "shape"),
    [
        pytest.param("ReduceMax", "int32", "4,5", id="integers"),
        pytest.param("ReduceMax", "float", "n,5", id="unknown height"),
        pytest.param("ReduceMean", "float", "4,5", id="means"),
    ],
)
def test_what_a_pool_can_not_take_stays(reduction: str, dtype: str, shape: str) -> None:
    model = model_of(f"{reduction}(x, axes)", shape, axes="1", dtype=dtype)
    pool_extrema(model)
    assert [node.op_type for node in model.graph.node] == [reduction]
    assert [it.name for it in model.graph.initializer] == ["axes"]
