from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from spacecompile.contract import OUTPUT_NAMES
from spacecompile.errors import BuildError
from spacecompile.export.engine.legality import illegal_nodes
from spacecompile.export.precision.files import PrecisionPlans, checked_precision, model_in
from spacecompile.export.precision.graph import GraphView
from spacecompile.export.precision.half import HALF_MAX, RANGE_SHARE, in_half, plan_half
from spacecompile.export.precision.magnitude import largest_magnitudes
from spacecompile.export.precision.probe import session_giving
from spacecompile.export.sealed.to_onnx import model_bytes


def answers(model: ModelProto, frame_HWC: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(OUTPUT_NAMES, {"frame": frame_HWC}))


def test_magnitudes_are_the_largest_values_of_each_tensor(
    model: ModelProto, frames_HWC: list[NDArray[np.uint8]]
) -> None:
    largest = largest_magnitudes(model, frames_HWC, threads=1)
    names = list(GraphView(model).network_outputs)
    session = session_giving(model, names, threads=1)
    runs = [session.run(names, {"frame": frame}) for frame in frames_HWC]
    for index, name in enumerate(names):
        assert largest[name] == pytest.approx(max(float(np.abs(run[index]).max()) for run in runs), rel=1e-5)
    assert largest["health"] >= max(float(frame.max()) for frame in frames_HWC)


def test_the_half_graph_answers_alike_and_is_valid(model: ModelProto, frames_HWC: list[NDArray[np.uint8]]) -> None:
    half = in_half(model, plan_half(model, largest_magnitudes(model, frames_HWC, threads=1)))
    onnx.checker.check_model(half, full_check=True)
    assert illegal_nodes(half) == ()
    for frame_HWC in frames_HWC:
        expected, seen = answers(model, frame_HWC), answers(half, frame_HWC)
        assert 0 < float(np.abs(expected[0] - seen[0]).max()) < 5e-3
        assert np.mean(expected[1] != seen[1]) < 0.01


@pytest.mark.parametrize("tta", ["none", "d4"])
def test_one_plan_serves_every_export_of_the_network(
    model: ModelProto, d4_model: ModelProto, frames_HWC: list[NDArray[np.uint8]], tta: str
) -> None:
    plan = plan_half(model, largest_magnitudes(model, frames_HWC, threads=1))
    half = in_half(model if tta == "none" else d4_model, plan)
    view = GraphView(half)
    types = {
        node.op_type: view.types[node.output[0]]
        for node in half.graph.node
        if node.op_type in ("LayerNormalization", "Softmax", "Max", "Gemm")
    }
    assert types["LayerNormalization"] == types["Gemm"] == TensorProto.FLOAT16
    assert types["Softmax"] == types["Max"] == TensorProto.FLOAT
    assert {info.name: info.type.tensor_type.elem_type for info in half.graph.output} == {
        "class_probs": TensorProto.FLOAT,
        "parts": TensorProto.UINT8,
        "box_xyxy": TensorProto.FLOAT,
        "health": TensorProto.FLOAT,
    }
    facts = checked_precision("fp16", "fp16", model_bytes(half, {}))
    assert facts.weight_shares["fp16"] > 0.9


def test_a_norm_of_large_activations_stays_float32(
    model_with_gain: Callable[[float], ModelProto], frames_HWC: list[NDArray[np.uint8]]
) -> None:
    loud = model_with_gain(500.0)
    plan = plan_half(loud, largest_magnitudes(loud, frames_HWC, threads=1))
    by_op = {node.op: node for node in plan.float_nodes.values()}
    norm = by_op["LayerNormalization"]
    assert norm.magnitude < RANGE_SHARE * HALF_MAX < norm.magnitude**2
    assert "square" in norm.reason
    view = GraphView(in_half(loud, plan))
    norms = [node for node in view.model.graph.node if node.op_type == "LayerNormalization"]
    assert [view.types[node.output[0]] for node in norms] == [TensorProto.FLOAT]


def test_values_beyond_the_share_of_the_range_stay_float32(
    model_with_gain: Callable[[float], ModelProto], frames_HWC: list[NDArray[np.uint8]]
) -> None:
    loud = model_with_gain(50_000.0)
    plan = plan_half(loud, largest_magnitudes(loud, frames_HWC, threads=1))
    reasons = Counter(node.reason for node in plan.float_nodes.values())
    assert reasons["a magnitude above 30% of float16's range"] >= 2
    half = in_half(loud, plan)
    expected, seen = answers(loud, frames_HWC[0]), answers(half, frames_HWC[0])
    assert float(np.abs(expected[0] - seen[0]).max()) < 5e-3


def test_a_file_that_is_not_half_is_refused_by_name(model: ModelProto) -> None:
    with pytest.raises(BuildError, match=r"variant fp16 would hold 0.0% of the network's weights .* at least 90%"):
        checked_precision("fp16", "fp16", model_bytes(model, {}))


def test_another_network_than_was_measured_is_refused(model: ModelProto, frames_HWC: list[NDArray[np.uint8]]) -> None:
    plan = plan_half(model, largest_magnitudes(model, frames_HWC, threads=1))
    truncated = type(plan)(ops=plan.ops[:-1], float_nodes=plan.float_nodes, magnitude_max=plan.magnitude_max)
    with pytest.raises(BuildError, match="or in another order"):
        in_half(model, truncated)


def test_fp32_and_bf16_are_the_graph_itself(model: ModelProto) -> None:
    assert model_in("fp32", model, PrecisionPlans()) is model
    assert model_in("bf16", model, PrecisionPlans()) is model
