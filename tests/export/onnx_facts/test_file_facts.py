from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from spacecompile.errors import IntegrityError
from spacecompile.export.onnx_facts.file_facts import Island, TensorFacts, graph_facts
from spacecompile.runtime.bundle import open_bundle

F32, F16 = TensorProto.FLOAT, TensorProto.FLOAT16


def model_of(
    nodes: Sequence[NodeProto],
    *,
    inputs: dict[str, tuple[int, Sequence[int | str]]],
    outputs: dict[str, tuple[int, Sequence[int | str]]],
    constants: dict[str, np.ndarray] | None = None,
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(name, *fact) for name, fact in inputs.items()],
        [helper.make_tensor_value_info(name, *fact) for name, fact in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("op", "attributes", "weight_shape", "input_shape", "output_shape", "macs"),
    [
        pytest.param("Conv", {}, (8, 3, 5, 5), (2, 3, 9, 7), (2, 8, 5, 3), 2 * 8 * 5 * 3 * 75, id="convolution"),
        pytest.param("Conv", {"group": 4}, (4, 1, 3, 3), (1, 4, 8, 8), (1, 4, 6, 6), 4 * 36 * 9, id="depthwise"),
        pytest.param(
            *("ConvTranspose", {"strides": [2, 2]}, (6, 5, 2, 2), (1, 6, 4, 3), (1, 5, 8, 6), 6 * 12 * 20),
            id="transposed convolution",
        ),
        pytest.param("MatMul", {}, (7, 4), (2, 3, 7), (2, 3, 4), 2 * 3 * 7 * 4, id="matmul"),
        pytest.param("Gemm", {}, (7, 4), (3, 7), (3, 4), 3 * 7 * 4, id="gemm"),
        pytest.param("Gemm", {"transA": 1, "transB": 1}, (4, 7), (7, 3), (3, 4), 3 * 7 * 4, id="gemm, transposed"),
    ],
)
def test_multiply_adds_are_those_of_the_definition(
    op: str,
    attributes: dict[str, object],
    weight_shape: tuple[int, ...],
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    macs: int,
) -> None:
    facts = graph_facts(
        model_of(
            [helper.make_node(op, ["x", "w"], ["y"], name="one", **attributes)],
            inputs={"x": (F32, input_shape)},
            outputs={"y": (F32, output_shape)},
            constants={"w": zeros(*weight_shape)},
        )
    )
    assert (facts.macs, facts.mac_shares) == (macs, {"fp32": 1.0})
    assert [(node.name, node.op, node.type, node.macs) for node in facts.mac_nodes] == [("one", op, "fp32", macs)]
    assert facts.inputs == (TensorFacts(name="x", type="fp32", shape=input_shape),)
    assert facts.outputs == (TensorFacts(name="y", type="fp32", shape=output_shape),)


def test_a_half_file_names_its_float32_islands_and_their_share() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="half"),
        helper.make_node("Cast", ["a"], ["b"], name="up", to=F32),
        helper.make_node("MatMul", ["b", "v"], ["c"], name="single"),
        helper.make_node("Softmax", ["c"], ["d"], name="soft"),
        helper.make_node("Cast", ["d"], ["e"], name="down", to=F16),
        helper.make_node("Relu", ["e"], ["f"], name="between"),
        helper.make_node("Cast", ["f"], ["g"], name="up again", to=F32),
        helper.make_node("Sqrt", ["g"], ["y"], name="root"),
    ]
    facts = graph_facts(
        model_of(
            nodes,
            inputs={"x": (F16, (10, 16))},
            outputs={"y": (F32, (10, 3))},
            constants={"w": zeros(16, 12, dtype=np.float16), "v": zeros(12, 3)},
        )
    )
    assert facts.mac_shares == {"fp16": pytest.approx(192 / 228), "fp32": pytest.approx(36 / 228)}
    assert facts.weight_shares == {"fp16": pytest.approx(192 / 228), "fp32": pytest.approx(36 / 228)}
    assert facts.weight_bytes == {"fp16": 384, "fp32": 144}
    assert facts.islands == (
        Island(first="single", ops={"MatMul": 1, "Softmax": 1}, macs=360),
        Island(first="root", ops={"Sqrt": 1}, macs=0),
    )
    assert facts.ops == {"Cast": 3, "MatMul": 2, "Relu": 1, "Softmax": 1, "Sqrt": 1}
    assert list(facts.ops)[:2] == ["Cast", "MatMul"]


def test_two_branches_in_float32_that_meet_are_one_island() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="half"),
        helper.make_node("Cast", ["a"], ["b"], to=F32),
        helper.make_node("Sqrt", ["b"], ["left"], name="left"),
        helper.make_node("Exp", ["b"], ["right"], name="right"),
        helper.make_node("Add", ["left", "right"], ["y"], name="meet"),
    ]
    facts = graph_facts(
        model_of(
            nodes,
            inputs={"x": (F16, (2, 2))},
            outputs={"y": (F32, (2, 2))},
            constants={"w": zeros(2, 2, dtype=np.float16)},
        )
    )
    assert facts.islands == (Island(first="left", ops={"Add": 1, "Exp": 1, "Sqrt": 1}, macs=0),)


def test_the_scales_of_a_half_resize_make_no_island() -> None:
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["a"], mode="linear"),
        helper.make_node("Conv", ["a", "w"], ["y"]),
    ]
    facts = graph_facts(
        model_of(
            nodes,
            inputs={"x": (F16, (1, 1, 4, 4))},
            outputs={"y": (F16, (1, 1, 8, 8))},
            constants={"scales": np.array([1, 1, 2, 2], np.float32), "w": zeros(1, 1, 1, 1, dtype=np.float16)},
        )
    )
    assert facts.islands == ()


def test_a_node_counts_as_int8_only_when_both_factors_are_dequantised() -> None:
    scale, zero = np.float32(0.5), np.int8(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
        helper.make_node("DequantizeLinear", ["bq", "bs"], ["bd"]),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["a"], name="quantised"),
        helper.make_node("Conv", ["a", "wd"], ["b"], name="only its weight"),
        helper.make_node("Conv", ["b", "w"], ["y"], name="plain"),
    ]
    facts = graph_facts(
        model_of(
            nodes,
            inputs={"x": (F32, (1, 4, 5, 5))},
            outputs={"y": (F32, (1, 2, 5, 5))},
            constants={
                **{"s": np.asarray(scale), "z": np.asarray(zero), "bs": np.asarray(scale)},
                **{"wq": zeros(4, 4, 1, 1, dtype=np.int8), "bq": zeros(4, dtype=np.int32), "w": zeros(2, 4, 1, 1)},
            },
        )
    )
    assert {node.name: node.type for node in facts.mac_nodes} == {
        **{"quantised": "int8", "only its weight": "fp32", "plain": "fp32"}
    }
    assert facts.mac_shares == {"fp32": pytest.approx(0.6), "int8": pytest.approx(0.4)}
    assert facts.weight_bytes == {"fp32": 32, "int32": 16, "int8": 16}
    assert facts.islands == ()


def test_a_fused_integer_convolution_counts_as_int8_and_its_scales_are_no_weights() -> None:
    constants = {
        **{"s": np.asarray(np.float32(1)), "z": np.asarray(np.uint8(0)), "zw": np.asarray(np.int8(0))},
        "w": zeros(3, 2, 1, 1, dtype=np.int8),
    }
    node = helper.make_node("QLinearConv", ["x", "s", "z", "w", "s", "zw", "s", "z"], ["y"])
    facts = graph_facts(
        model_of(
            [node],
            inputs={"x": (TensorProto.UINT8, (1, 2, 4, 4))},
            outputs={"y": (TensorProto.UINT8, (1, 3, 4, 4))},
            constants=constants,
        )
    )
    assert (facts.macs, facts.mac_shares, facts.weight_bytes) == (96, {"int8": 1.0}, {"int8": 6})


def test_a_node_of_unknown_shape_is_named_instead_of_counted() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="open")
    model = model_of(
        [node], inputs={"x": (F32, ("rows", 4))}, outputs={"y": (F32, ("rows", 2))}, constants={"w": zeros(4, 2)}
    )
    facts = graph_facts(model)
    assert (facts.uncounted, facts.macs, facts.inputs[0].shape) == (("open",), 0, (None, 4))


def test_a_built_file_holds_the_work_and_the_weights_that_the_manifest_says(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    plain, d4 = (graph_facts(bundle.read(variant.path)) for variant in bundle.manifest.variants)
    for facts in (plain, d4):
        assert (facts.mac_shares, facts.islands, facts.uncounted) == ({"fp32": 1.0}, (), ())
        assert facts.opset == bundle.manifest.variants[0].opset
        assert (facts.inputs[0].name, facts.inputs[0].type, facts.inputs[0].shape) == ("frame", "uint8", (128, 128, 3))
        # The sealed graph adds a few constants of its own: ranges, kernels of the resizes.
        assert facts.weight_bytes["fp32"] / 4 == pytest.approx(bundle.manifest.cost.params, rel=0.01)
    assert d4.macs / plain.macs == pytest.approx(8, abs=0.5)


def test_what_is_no_onnx_file_is_refused() -> None:
    with pytest.raises(IntegrityError, match="no valid ONNX file"):
        graph_facts(b"\x08\x0a truncated")
