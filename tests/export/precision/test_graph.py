from __future__ import annotations

from collections import Counter

from onnx import ModelProto, TensorProto

from spacecompile.export.precision.graph import GraphView


def test_the_network_is_what_lies_between_its_first_and_last_weights(model: ModelProto) -> None:
    view = GraphView(model)
    ops = Counter(node.op_type for node in view.network_nodes)
    outside = Counter(node.op_type for node in model.graph.node) - ops
    assert ops["Conv"] == 3 and ops["LayerNormalization"] == 1 and ops["Softmax"] == 1
    # Frame to input, class softmax, mask upsampling, thresholds and box.
    assert outside["Conv"] == 1 and outside["Softmax"] == 1 and outside["MatMul"] == 10
    assert {"Greater", "Where"} <= outside.keys()
    assert not {"Greater", "Where"} & ops.keys()


def test_the_network_has_the_same_nodes_in_every_export(model: ModelProto, d4_model: ModelProto) -> None:
    plain, d4 = (GraphView(one).network_nodes for one in (model, d4_model))
    assert [node.op_type for node in plain] == [node.op_type for node in d4]
    assert len(d4_model.graph.node) > len(model.graph.node)


def test_two_tensors_leave_the_network(model: ModelProto) -> None:
    view = GraphView(model)
    shapes = {
        info.name: [extent.dim_value for extent in info.type.tensor_type.shape.dim] for info in model.graph.value_info
    }
    assert [shapes[name] for name in view.network_outputs] == [[1, 10], [1, 2, 16, 16]]


def test_every_tensor_has_a_type(model: ModelProto) -> None:
    view = GraphView(model)
    names = {name for node in model.graph.node for name in (*node.input, *node.output) if name}
    assert names <= view.types.keys()
    assert view.types["frame"] == TensorProto.UINT8
