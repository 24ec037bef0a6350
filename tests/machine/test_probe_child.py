from __future__ import annotations

import zlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from spacecompile.contract import HEALTH_SIGNALS
from spacecompile.machine.probe_child import FRAME_SIZE_PX, GRAPH


def probe_graph() -> bytes:
    """How the graph of the probe was made. Class logits are four times the mean colours."""
    height_px, width_px = FRAME_SIZE_PX
    constants = {
        "hw": np.array([0, 1], np.int64),
        "scale": np.array(1 / 255, np.float32),
        "to_logits": 4 * np.eye(3, dtype=np.float32),
        "to_box": np.zeros((3, 4), np.float32),
        "to_health": np.zeros((3, len(HEALTH_SIGNALS)), np.float32),
        "to_parts": np.array([1, 0, 2], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["frame"], ["bytes"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["bytes", "scale"], ["colors"]),
        helper.make_node("ReduceMean", ["colors", "hw"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "to_logits"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["class_probs"]),
        helper.make_node("MatMul", ["colors", "to_parts"], ["bits"]),
        helper.make_node("Round", ["bits"], ["whole_bits"]),
        helper.make_node("Cast", ["whole_bits"], ["parts"], to=TensorProto.UINT8),
        helper.make_node("MatMul", ["means", "to_box"], ["box_xyxy"]),
        helper.make_node("MatMul", ["means", "to_health"], ["health"]),
    ]
    outputs = {
        "class_probs": (TensorProto.FLOAT, [3]),
        "parts": (TensorProto.UINT8, [height_px, width_px]),
        "box_xyxy": (TensorProto.FLOAT, [4]),
        "health": (TensorProto.FLOAT, [len(HEALTH_SIGNALS)]),
    }
    graph = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [height_px, width_px, 3])],
        [helper.make_tensor_value_info(name, *fact) for name, fact in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def test_the_graph_in_the_source_is_the_one_that_this_test_makes() -> None:
    assert onnx.load_model_from_string(zlib.decompress(GRAPH)) == onnx.load_model_from_string(probe_graph())
