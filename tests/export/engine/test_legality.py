from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from spacecompile.errors import BuildError
from spacecompile.export.engine.legality import illegal_nodes, legality_of
from spacecompile.export.engine.legality_records import IllegalNode
from spacecompile.export.sealed.to_onnx import OPSET


def model_of(
    *nodes: onnx.NodeProto,
    input_type: int = TensorProto.FLOAT,
    opset: int = OPSET,
    weights: Sequence[TensorProto] = (),
) -> ModelProto:
    """A graph from `x` [1, 1, 4, 4] to the last node's first output."""
    output = helper.make_empty_tensor_value_info(nodes[-1].output[0])
    frame = helper.make_tensor_value_info("x", input_type, [1, 1, 4, 4])
    graph = helper.make_graph(nodes, "test", [frame], [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def quantised(zero_point: np.generic) -> ModelProto:
    """A graph that quantises `x` and turns it back."""
    return model_of(
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="dequantise"),
        weights=[numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(zero_point, "zero")],
    )


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        pytest.param(model_of(helper.make_node("NonZero", ["x"], ["y"])), "NonZero '' is not in the", id="NonZero"),
        pytest.param(model_of(helper.make_node("NonZero", ["x"], ["y"])), "y has a shape", id="open shape"),
        pytest.param(
            model_of(
                helper.make_node("Cast", ["x"], ["b"], to=TensorProto.UINT8),
                helper.make_node("BitwiseNot", ["b"], ["y"]),
            ),
            "BitwiseNot '' is not in the portable set",
            id="bitwise",
        ),
        pytest.param(
            model_of(helper.make_node("Transpose", ["x"], ["y"]), input_type=TensorProto.UINT8),
            "Transpose '' reads bytes",
            id="bytes into something else than a Cast",
        ),
        pytest.param(
            model_of(
                helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BOOL),
                helper.make_node("ReduceMax", ["b"], ["y"]),
            ),
            "ReduceMax '' reduces bytes or bools",
            id="reduced bools",
        ),
        pytest.param(
            model_of(helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear", antialias=1)),
            "Resize '' is antialiased",
            id="antialiased",
        ),
        pytest.param(
            model_of(helper.make_node("Attention", ["x", "x", "x"], ["y"]), opset=23),
            "Attention '' is not in the portable set",
            id="attention in one node",
        ),
        pytest.param(
            quantised(np.int8(3)), "QuantizeLinear 'quantise' has a zero point that is not 0", id="asymmetric"
        ),
        pytest.param(quantised(np.uint8(0)), "QuantizeLinear 'quantise' reads bytes", id="quantised to bytes"),
        pytest.param(
            model_of(
                helper.make_node("Cast", ["x"], ["b"], to=TensorProto.INT32),
                helper.make_node("DequantizeLinear", ["b", "scale"], ["y"]),
                weights=[numpy_helper.from_array(np.float32(0.1), "scale")],
            ),
            "DequantizeLinear '' dequantises int32",
            id="quantised bias",
        ),
        pytest.param(
            model_of(helper.make_node("Relu", ["x"], ["y"]), opset=OPSET + 4), "opset 24 is above 23", id="opset"
        ),
    ],
)
def test_what_tensorrt_refuses_is_named(model: ModelProto, problem: str) -> None:
    assert any(problem in str(found) for found in illegal_nodes(model)), illegal_nodes(model)


def test_operators_outside_onnx_are_named() -> None:
    model = model_of(helper.make_node("Relu", ["x"], ["y"]))
    model.graph.node.append(helper.make_node("FusedMatMul", ["x", "x"], ["z"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    problems = list(map(str, illegal_nodes(model)))
    assert "operators of 'com.microsoft' are not standard ONNX" in problems
    assert "FusedMatMul '' gives 'z' of unknown type" in problems


def test_bytes_that_only_feed_a_cast_are_portable() -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    assert illegal_nodes(model_of(cast, input_type=TensorProto.UINT8)) == ()


def test_symmetric_int8_is_portable() -> None:
    assert illegal_nodes(quantised(np.int8(0))) == ()


def test_a_report_counts_the_operators_and_joins_what_the_parser_says() -> None:
    model = model_of(helper.make_node("Relu", ["x"], ["r"], name="first"), helper.make_node("NonZero", ["r"], ["y"]))
    refused = (
        IllegalNode(op="NonZero", node="", reason="is known already"),
        IllegalNode(op="Relu", node="first", reason="is not liked"),
    )
    report = legality_of(model.SerializeToString(), parser_name="a parser", refused=refused)
    assert report.checked_by == ("rules", "a parser")
    assert (report.nodes, report.ops) == (2, {"Relu": 1, "NonZero": 1})
    assert [str(problem) for problem in report.illegal] == [
        "NonZero '' is not in the portable set",
        "tensor y has a shape that is not fixed",
        "Relu 'first' is not liked",
    ]


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(BuildError, match="no sound ONNX file"):
        legality_of(b"not a graph")
