from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from spacecompile.errors import BuildError, ParityError
from spacecompile.export.engine.legality import illegal_nodes
from spacecompile.export.onnx_facts.file_facts import graph_facts
from spacecompile.export.precision.files import checked_precision
from spacecompile.export.precision.graph import GraphView
from spacecompile.export.precision.quantise import QUANTISED_MAX, quantisable_layers, quantised, weight_codes
from spacecompile.export.precision.ranges import best_scale
from spacecompile.export.precision.search import in_int8, plan_int8
from spacecompile.export.sealed.to_onnx import model_bytes


def test_all_layers_but_the_last_of_each_head_can_be_quantised(model: ModelProto) -> None:
    layers = quantisable_layers(GraphView(model))
    assert [layer.label for layer in layers] == ["stem", "query", "depthwise"]


def test_layers_have_the_same_keys_in_every_export(model: ModelProto, d4_model: ModelProto) -> None:
    plain, d4 = (quantisable_layers(GraphView(one)) for one in (model, d4_model))
    assert [layer.key for layer in plain] == [layer.key for layer in d4]
    assert len({layer.key for layer in plain}) == len(plain)


def quantised_all(model: ModelProto) -> ModelProto:
    layers = quantisable_layers(GraphView(model))
    return quantised(model, layers, {layer.key: 0.05 for layer in layers})


def test_pairs_are_symmetric_with_one_scale_per_output_channel(model: ModelProto) -> None:
    result = quantised_all(model)
    onnx.checker.check_model(result, full_check=True)
    assert illegal_nodes(result) == ()
    weights = {weight.name: weight for weight in result.graph.initializer}
    dequantised = [node for node in result.graph.node if node.op_type == "DequantizeLinear"]
    codes = [weights[node.input[0]] for node in dequantised if node.input[0] in weights]
    assert [code.data_type for code in codes] == [TensorProto.INT8] * 3
    for node in dequantised:
        assert not numpy_helper.to_array(weights[node.input[2]]).any()
        if node.input[0] in weights:
            assert numpy_helper.to_array(weights[node.input[1]]).shape == (16,)
    # TensorRT refuses int32 biases.
    assert all(weight.data_type != TensorProto.INT32 for weight in weights.values())


def test_nothing_but_inputs_and_weights_of_the_layers_is_rounded(model: ModelProto) -> None:
    before, after = (Counter(node.op_type for node in one.graph.node) for one in (model, quantised_all(model)))
    assert after - before == Counter({"DequantizeLinear": 6, "QuantizeLinear": 3})
    assert not before - after


def test_a_tensor_that_several_layers_read_has_one_pair() -> None:
    from onnx import helper

    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "network.a")
    other = numpy_helper.from_array(2 * np.eye(4, dtype=np.float32), "network.b")
    last = numpy_helper.from_array(3 * np.eye(4, dtype=np.float32), "network.c")
    nodes = [
        helper.make_node("MatMul", ["x", "network.a"], ["y"], name="a"),
        helper.make_node("MatMul", ["x", "network.b"], ["z"], name="b"),
        helper.make_node("Add", ["y", "z"], ["s"], name="s"),
        helper.make_node("MatMul", ["s", "network.c"], ["logits"], name="c"),
        helper.make_node("MatMul", ["s", "network.c"], ["others"], name="d"),
        helper.make_node("Relu", ["logits"], ["out"], name="e"),
        helper.make_node("Relu", ["others"], ["out2"], name="f"),
    ]
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4])  # noqa: E731
    graph = helper.make_graph(nodes, "g", [value("x")], [value("out"), value("out2")], [weight, other, last])
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    result = quantised_all(model)
    assert Counter(node.op_type for node in result.graph.node)["QuantizeLinear"] == 1


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1]),
)
@settings(max_examples=30, deadline=None)
def test_weight_codes_are_within_half_a_step(seed: int, axis: int) -> None:
    values = np.random.default_rng(seed).normal(size=(5, 7)).astype(np.float32)
    codes, scale = weight_codes(values, axis)
    steps = scale[:, None] if axis == 0 else scale[None]
    assert codes.dtype == np.int8 and np.abs(codes.astype(int)).max() == QUANTISED_MAX
    assert np.all(np.abs(codes * steps - values) <= 0.5001 * steps)


def test_a_channel_of_zeros_stays_zero() -> None:
    codes, scale = weight_codes(np.zeros((2, 3), np.float32), 0)
    assert not codes.any() and np.isfinite(scale).all()


def test_the_best_scale_clips_a_lone_outlier_and_keeps_an_even_spread() -> None:
    even = np.ones(2048)
    assert best_scale(even, 10.0) == pytest.approx(10.0 / QUANTISED_MAX, rel=0.03)
    outlier = np.zeros(2048)
    outlier[:400], outlier[-1] = 1e6, 1
    assert best_scale(outlier, 10.0) < 0.4 * 10.0 / QUANTISED_MAX


def test_all_layers_stay_int8_where_parity_holds(model: ModelProto, frames_HWC: list[NDArray[np.uint8]]) -> None:
    plan = plan_int8(model, frames_HWC, gate=lambda _: (), threads=1)
    assert plan.int8 == ("stem", "query", "depthwise")
    assert plan.raised == () and plan.gate_runs == 1
    shares = graph_facts(model_bytes(in_int8(model, plan), {}))
    assert shares.weight_shares["int8"] > 0.2  # the rest are the matrices that upsample the masks
    # The product of attention is most of this network, so that it does not earn the name.
    with pytest.raises(BuildError, match=r"variant int8 would hold .*at least 40% are needed to call it int8"):
        checked_precision("int8", "int8", model_bytes(in_int8(model, plan), {}))


def num_int8(model: ModelProto) -> int:
    return sum(weight.data_type == TensorProto.INT8 and len(weight.dims) > 1 for weight in model.graph.initializer)


def test_the_most_sensitive_layers_go_back_until_parity_holds(
    model: ModelProto, frames_HWC: list[NDArray[np.uint8]]
) -> None:
    plan = plan_int8(model, frames_HWC, gate=lambda seen: () if len(seen.int8) <= 1 else ("too much",), threads=1)
    assert len(plan.int8) == 1 and len(plan.raised) == 2
    assert plan.raised[0].error >= plan.raised[1].error > 0
    assert {*plan.int8, *(layer.layer for layer in plan.raised)} == {"stem", "query", "depthwise"}
    assert num_int8(in_int8(model, plan)) == 1


def test_a_network_that_no_layer_of_can_be_int8_is_refused(
    model: ModelProto, frames_HWC: list[NDArray[np.uint8]]
) -> None:
    with pytest.raises(ParityError, match="even with a single layer: hopeless"):
        plan_int8(model, frames_HWC, gate=lambda _: ("hopeless",), threads=1)


def test_the_plan_of_the_plain_graph_serves_d4(
    model: ModelProto, d4_model: ModelProto, frames_HWC: list[NDArray[np.uint8]]
) -> None:
    plan = plan_int8(model, frames_HWC, gate=lambda _: (), threads=1)
    assert num_int8(in_int8(d4_model, plan)) == num_int8(in_int8(model, plan)) == 3
