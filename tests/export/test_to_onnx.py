from __future__ import annotations

import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor, nn

from spacecompile.contract import INPUT_NAME, OUTPUT_NAMES, ModelSpec
from spacecompile.errors import BuildError
from spacecompile.export.sealed import SealedGraph
from spacecompile.export.to_onnx import OPSET, export_onnx, illegal_nodes

SPEC = ModelSpec(input_size_px=(64, 64), frame_size_px=(128, 128))


def test_an_exported_file_is_whole_named_checked_and_portable(
    small_network: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    model_bytes = export_onnx(SealedGraph(small_network, SPEC, "d4"), SPEC.frame_size_px, facts={"variant": "fp32-d4"})
    assert capfd.readouterr().out == ""
    model = onnx.load_from_string(model_bytes)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == [INPUT_NAME]
    assert [value.name for value in model.graph.output] == list(OUTPUT_NAMES)
    assert {fact.key: fact.value for fact in model.metadata_props} == {"variant": "fp32-d4"}
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", OPSET)}
    assert all(weight.data_location == TensorProto.DEFAULT for weight in model.graph.initializer)
    assert illegal_nodes(model) == ()


def test_an_exported_file_tells_nothing_of_the_machine_and_is_the_same_each_time(small_network: nn.Module) -> None:
    first, second = (export_onnx(SealedGraph(small_network, SPEC), SPEC.frame_size_px, facts={}) for _ in range(2))
    assert first == second
    for trace in (b".py", b"site-packages", b"File ", str(torch.__file__).split("/")[1].encode() + b"/"):
        assert trace not in first


class BranchingNetwork(nn.Module):
    """Its path depends on its input, so no fixed graph computes it."""

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        part_logits_NKhw = input_NCHW[:, :2, ::4, ::4]
        if input_NCHW.sum() > 0:
            part_logits_NKhw = part_logits_NKhw * 2
        return input_NCHW.mean(dim=(2, 3)), part_logits_NKhw


def test_a_network_that_can_not_be_traced_is_refused_in_one_line() -> None:
    with pytest.raises(BuildError, match="can't trace this network") as raised:
        export_onnx(SealedGraph(BranchingNetwork(), SPEC), SPEC.frame_size_px, facts={})
    assert "\n" not in str(raised.value)


def model_of(*nodes: onnx.NodeProto, input_type: int = TensorProto.FLOAT, opset: int = OPSET) -> ModelProto:
    """A graph from `x` [1, 1, 4, 4] to the last node's first output."""
    output = helper.make_empty_tensor_value_info(nodes[-1].output[0])
    graph = helper.make_graph(nodes, "test", [helper.make_tensor_value_info("x", input_type, [1, 1, 4, 4])], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


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
            model_of(helper.make_node("Relu", ["x"], ["y"]), opset=OPSET + 4), "opset 24 is above 23", id="opset"
        ),
    ],
)
def test_what_tensorrt_refuses_is_named(model: ModelProto, problem: str) -> None:
    assert any(problem in found for found in illegal_nodes(model)), illegal_nodes(model)


def test_operators_outside_onnx_are_named() -> None:
    model = model_of(helper.make_node("Relu", ["x"], ["y"]))
    model.graph.node.append(helper.make_node("FusedMatMul", ["x", "x"], ["z"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    problems = illegal_nodes(model)
    assert "operators of 'com.microsoft' are not standard ONNX" in problems
    assert "FusedMatMul '' gives 'z' of unknown type" in problems


def test_bytes_that_only_feed_a_cast_are_portable() -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    assert illegal_nodes(model_of(cast, input_type=TensorProto.UINT8)) == ()
