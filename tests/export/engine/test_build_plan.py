"""Real builds with TensorRT-RTX, which needs no GPU to build; it can't run what it built here."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper
from torch import nn

from spacecompile.contract import OUTPUT_NAMES, ModelSpec, Precision
from spacecompile.errors import BuildError
from spacecompile.export.engine import build_plan as to_engine
from spacecompile.export.engine.build_plan import build_engine, refused_nodes
from spacecompile.export.engine.plan_facts import EngineOptions, require_precision
from spacecompile.export.engine.watch import BuildWatch, monitor_of
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.export.sealed.to_onnx import export_onnx
from spacecompile.runtime.bundle import open_bundle
from spacecompile.runtime.cuda.driver import GpuFacts
from spacecompile.runtime.cuda.engine_api import EngineApi, EngineKind, collected_errors, logger_of

pytestmark = pytest.mark.xdist_group("plans")  # what the module's tests share is made once

GPU = GpuFacts(gpu="Orin", compute_capability="8.7", cuda="12.6")
SPEC = ModelSpec(input_size_px=(64, 64), frame_size_px=(128, 128))


@pytest.fixture
def model_bytes(variant: str, precise_bundle: Path) -> bytes:
    """The ONNX file of a variant."""
    bundle = open_bundle(precise_bundle)
    return bundle.read(bundle.variant(variant).path)


def types_in_file(model_bytes: bytes) -> dict[str, int]:
    """Number of convolutions and matrix products by the type that they multiply in, from the ONNX file itself."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model_bytes)).graph
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.input, *graph.output)}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    names = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
    return Counter(
        "int8" if set(node.input[:2]) <= dequantised else names[types[node.input[0]]]
        for node in graph.node
        if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}
    )


@pytest.mark.parametrize(
    ("variant", "precision"),
    [
        *[("fp32", "fp32"), ("fp32-d4", "fp32"), ("fp16", "fp16")],
        *[("fp16-d4", "fp16"), ("int8", "int8"), ("int8-d4", "int8")],
    ],
)
def test_every_variant_builds_and_computes_in_the_types_of_its_file(
    variant: str, precision: Precision, model_bytes: bytes, rtx: EngineApi
) -> None:
    seen: list[tuple[str, int, int]] = []
    built = build_engine(model_bytes, rtx, step=f"engine {variant}", progress=lambda *report: seen.append(report))
    facts = built.facts
    require_precision(facts.types, precision, variant=variant)
    assert facts.types.compute_layers == types_in_file(model_bytes)
    assert set(facts.types.compute_layers) >= {precision}
    assert facts.strongly_typed
    assert not facts.tf32
    # The interface is the same whatever the precision.
    assert [(tensor.name, tensor.type, tensor.shape) for tensor in facts.inputs] == [("frame", "uint8", (128, 128, 3))]
    assert [tensor.name for tensor in facts.outputs] == list(OUTPUT_NAMES)
    assert [tensor.type for tensor in facts.outputs] == ["fp32", "uint8", "fp32", "fp32"]
    assert seen[0] == (f"engine {variant}", 0, 100)
    assert seen[-1] == (f"engine {variant}", 100, 100)
    assert len(seen) > 10


@pytest.mark.parametrize("variant", ["fp32"])
def test_the_facts_are_those_of_the_files_and_of_this_machine(model_bytes: bytes, rtx: EngineApi) -> None:
    built = build_engine(model_bytes, rtx, options=EngineOptions(workspace_bytes=1 << 28, optimization_level=2))
    facts = built.facts
    assert facts.onnx_sha256 == hashlib.sha256(model_bytes).hexdigest()
    assert (facts.plan_sha256, facts.plan_bytes) == (hashlib.sha256(built.plan).hexdigest(), len(built.plan))
    assert (facts.engine, facts.library_version, facts.target) == ("tensorrt-rtx", rtx.version, "sm80-and-later")
    assert facts.profile == {"frame": (128, 128, 3)}
    assert facts.static_shapes
    assert facts.options.optimization_level == 2
    assert facts.certified == ()
    assert built.timing_cache is None
    if rtx.device is None:
        assert (facts.gpu, facts.cuda, facts.driver, facts.compute_capability) == (None, None, None, None)
        assert built.layers.engine is None
    graph = onnx.load_from_string(model_bytes).graph
    kinds = [layer.kind for layer in built.layers.network]
    assert kinds.count("CONVOLUTION") == sum(node.op_type == "Conv" for node in graph.node)
    assert sum(facts.types.layers.values()) == len(kinds)


@pytest.mark.parametrize("variant", ["fp32"])
def test_a_plan_can_be_built_for_chosen_gpus(model_bytes: bytes, rtx: EngineApi) -> None:
    built = build_engine(model_bytes, rtx, options=EngineOptions(compute_capabilities=("12.0", "8.9")))
    assert built.facts.target == "sm89+sm120"
    assert built.facts.options.compute_capabilities == ("12.0", "8.9")


@pytest.mark.parametrize("variant", ["fp32"])
def test_a_builder_that_fails_says_why(model_bytes: bytes, rtx: EngineApi) -> None:
    # Turing has no float32 matrix product in TensorRT-RTX.
    with pytest.raises(BuildError, match=r"can't build an engine .*Turing.*FP32 GEMM is not supported\. Run with -v"):
        build_engine(model_bytes, rtx, options=EngineOptions(compute_capabilities=("7.5",)))


@pytest.mark.parametrize("variant", ["fp32"])
def test_an_interrupted_build_ends_and_is_raised(model_bytes: bytes, rtx: EngineApi) -> None:
    def interrupt(step: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(model_bytes, rtx, progress=interrupt)


def test_the_library_ends_a_build_that_was_cancelled(rtx: EngineApi, small_network: nn.Module) -> None:
    trt = rtx.trt
    with collected_errors(rtx) as errors:
        builder = trt.Builder(logger_of(trt))
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger_of(trt))
        assert parser.parse(export_onnx(SealedGraph(small_network, SPEC), SPEC.frame_size_px, facts={}))
        watch = BuildWatch()
        watch.cancelled.set()
        config = builder.create_builder_config()
        config.progress_monitor = monitor = monitor_of(trt, watch)
        assert builder.build_serialized_network(network, config) is None
        assert monitor is not None
        assert any("BuildCanceled" in error for error in errors)


def graph_of(*nodes: onnx.NodeProto, input_type: int = TensorProto.FLOAT, output_type: int) -> bytes:
    """A graph from `x` [1, 8, 16, 16] to the last node's first output."""
    frame = helper.make_tensor_value_info("x", input_type, [1, 8, 16, 16])
    answer = helper.make_tensor_value_info(nodes[-1].output[0], output_type, None)
    graph = helper.make_graph(nodes, "test", [frame], [answer])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


REFUSED = [
    pytest.param(
        graph_of(
            helper.make_node("Transpose", ["x"], ["t"], name="turn"),
            helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT),
            input_type=TensorProto.UINT8,
            output_type=TensorProto.FLOAT,
        ),
        "Transpose",
        "turn",
        "has type UInt8",
        id="bytes into something else than a Cast",
    ),
    pytest.param(
        graph_of(
            helper.make_node("Cast", ["x"], ["b"], to=TensorProto.BOOL),
            helper.make_node("ReduceMax", ["b"], ["y"], name="any"),
            output_type=TensorProto.BOOL,
        ),
        "ReduceMax",
        "any",
        "unsupported input type of BOOL",
        id="reduced bools",
    ),
    pytest.param(
        graph_of(
            helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32),
            helper.make_node("BitwiseNot", ["i"], ["y"], name="flip"),
            output_type=TensorProto.INT32,
        ),
        "BitwiseNot",
        "flip",
        "",
        id="bitwise",
    ),
    pytest.param(
        graph_of(helper.make_node("NonZero", ["x"], ["y"], name="where"), output_type=TensorProto.INT64),
        "NonZero",
        "where",
        "NonZero",
        id="a shape that depends on the data",
    ),
]


@pytest.mark.parametrize(("graph", "op", "node", "reason"), REFUSED)
def test_the_parser_names_node_and_operator_before_anything_is_built(
    graph: bytes, op: str, node: str, reason: str, rtx: EngineApi
) -> None:
    refused = refused_nodes(graph, rtx)
    assert [(problem.op, problem.node) for problem in refused] == [(op, node)]
    assert reason in refused[0].reason
    with pytest.raises(BuildError, match=f"refuses 1 node of this graph: {op} '{node}' is refused: ") as raised:
        build_engine(graph, rtx)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("variant", ["fp32"])
def test_the_parser_refuses_nothing_of_an_exported_graph(model_bytes: bytes, rtx: EngineApi) -> None:
    assert refused_nodes(model_bytes, rtx) == ()


def fake_library(**members: object) -> SimpleNamespace:
    """What `_inspected` and `refused_nodes` ask of a library, for answers that none gives here."""
    return SimpleNamespace(
        Runtime=lambda _log: SimpleNamespace(deserialize_cuda_engine=lambda _plan: None),
        Builder=lambda _log: SimpleNamespace(create_network=lambda _flags: None),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=0),
        **members,
    )


@pytest.mark.parametrize(
    ("kind", "device", "raises"),
    [
        pytest.param("tensorrt", GPU, True, id="TensorRT on the GPU that it built for"),
        pytest.param("tensorrt", None, False, id="no GPU"),
        pytest.param("tensorrt-rtx", GPU, False, id="TensorRT-RTX for other GPUs"),
    ],
)
def test_a_plan_that_the_gpu_of_its_build_can_not_load_is_no_plan(
    kind: EngineKind, device: GpuFacts | None, raises: bool, rtx: EngineApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_engine, "logger_of", lambda _trt: None)
    api = replace(rtx, trt=fake_library(), kind=kind, device=device)
    if raises:
        with pytest.raises(BuildError, match="can't load again on Orin"):
            to_engine._inspected(b"plan", api)
    else:
        assert to_engine._inspected(b"plan", api) is None


def test_a_refusal_without_a_reason_is_a_refusal(rtx: EngineApi, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = SimpleNamespace(supports_model_v2=lambda _model: False, num_errors=0)
    monkeypatch.setattr(to_engine, "logger_of", lambda _trt: None)
    monkeypatch.setattr(to_engine, "collected_errors", lambda _api: nullcontext([]))
    api = replace(rtx, trt=fake_library(OnnxParser=lambda _network, _log: parser))
    (refused,) = refused_nodes(b"", api)
    assert "the parser says not why" in str(refused)


def test_what_is_no_graph_is_refused(rtx: EngineApi) -> None:
    with pytest.raises(BuildError, match="refuses"):
        build_engine(b"not a graph", rtx)


def test_an_input_of_open_shape_is_refused(rtx: EngineApi) -> None:
    model = onnx.load_from_string(graph_of(helper.make_node("Relu", ["x"], ["y"]), output_type=TensorProto.FLOAT))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(BuildError, match=r"input x has shape \(-1, 8, 16, 16\), which is not fixed"):
        build_engine(model.SerializeToString(), rtx)
