"""ONNX bytes to a TensorRT plan: parse, configure, build, read back. Needs neither torch nor onnx.

Everything here is the API that TensorRT 10.12 and later, 11 and TensorRT-RTX share, except where a function says so.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from spacecompile._version import __version__
from spacecompile.contract import Progress, no_progress
from spacecompile.errors import BuildError
from spacecompile.export.engine.legality_records import IllegalNode
from spacecompile.export.engine.options import check_options, configure, stored_timing_cache, target_of
from spacecompile.export.engine.plan_facts import (
    EngineFacts,
    EngineOptions,
    LayerFact,
    layer_facts,
    network_tensor,
    realised_types,
)
from spacecompile.export.engine.watch import BuildWatch, monitor_of, run_watched
from spacecompile.record import Record
from spacecompile.runtime.cuda.engine_api import EngineApi, collected_errors, logger_of, sentence_of


class Layers(Record):
    """`layers.json`.

    Attributes:
        network: Layers of the parsed network.
        engine: Report of the library's inspector on the engine; None where no GPU could load it.
    """

    network: tuple[LayerFact, ...]
    engine: Any = None


@dataclass(frozen=True, kw_only=True)
class EngineBuild:
    """A built engine.

    Attributes:
        plan: The library's own bytes, nothing added.
        facts: Facts for the sidecar.
        layers: Content of `layers.json`.
        timing_cache: Timings for the next build; None when the library keeps none.
    """

    plan: bytes
    facts: EngineFacts
    layers: Layers
    timing_cache: bytes | None


@dataclass(frozen=True, kw_only=True)
class _Parsed:
    """The library's objects; each of them has to outlive the build."""

    builder: Any
    network: Any
    parser: Any


def refused_nodes(model_bytes: bytes, api: EngineApi) -> tuple[IllegalNode, ...]:
    """What the library's own parser would refuse in a graph, before anything is built; empty for a legal one."""
    with collected_errors(api):
        parsed = _empty_network(api)
        parser = parsed.parser
        supported = parser.supports_model_v2(model_bytes)
        if supported:
            return ()
        return _parser_errors(parser) or (
            IllegalNode(op="", node="", reason="is refused, and the parser says not why"),
        )


def build_engine(
    model_bytes: bytes,
    api: EngineApi,
    *,
    options: EngineOptions | None = None,
    timing_cache: bytes | None = None,
    step: str = "engine",
    progress: Progress = no_progress,
) -> EngineBuild:
    """Build an engine of one sealed graph.

    Args:
        model_bytes: A whole ONNX file with fixed shapes.
        api: Library that builds.
        options: Build options; the defaults if None.
        timing_cache: Timings of an earlier build; empty to start a cache; None for no cache.
        step: Name of the step for `progress`.
        progress: Callback for progress.

    Raises:
        UsageError: If the library has no such option.
        BuildError: If the library refuses a node, its builder fails, or it can't load what it built for the GPU here.
        KeyboardInterrupt: If it was interrupted; the build has ended then.
    """
    trt, options = api.trt, options or EngineOptions()
    check_options(api, options, timing_cache=timing_cache is not None)
    with collected_errors(api) as errors:
        parsed = _parsed(model_bytes, api)
        builder, network = parsed.builder, parsed.network
        config = builder.create_builder_config()
        configure(config, api, options, timing_cache)
        _add_profile(parsed, config)
        watch = BuildWatch()
        monitor = monitor_of(trt, watch)  # kept here, since the library does not
        config.progress_monitor = monitor
        host_memory = run_watched(
            lambda: builder.build_serialized_network(network, config), watch, progress=progress, step=step
        )
        if host_memory is None:
            reason = sentence_of("\n".join(errors))
            raise BuildError(f"{api.title} can't build an engine of this graph: {reason}. Run with -v for its log.")
    plan = bytes(host_memory)
    layers = Layers(network=layer_facts(network), engine=_inspected(plan, api))
    facts = EngineFacts(
        **_environment(api),
        **_tensors(network),
        strongly_typed=network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        tf32=config.get_flag(trt.BuilderFlag.TF32),
        target=target_of(api, options),
        options=options,
        timing_cache=timing_cache is not None,
        types=realised_types(layers.network, _formats(layers.engine)),
        onnx_sha256=hashlib.sha256(model_bytes).hexdigest(),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
    )
    return EngineBuild(
        plan=plan,
        facts=facts,
        layers=layers,
        timing_cache=None if timing_cache is None else stored_timing_cache(config),
    )


def _empty_network(api: EngineApi) -> _Parsed:
    trt = api.trt
    log = logger_of(trt)
    try:
        builder = trt.Builder(log)
    except (RuntimeError, TypeError) as error:
        # The bindings raise these when the library's own factory gives nothing.
        raise BuildError(f"{api.title} can't start: {error}. Run with -v for its log.") from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    return _Parsed(builder=builder, network=network, parser=parser)


def _parsed(model_bytes: bytes, api: EngineApi) -> _Parsed:
    """A graph in the library's own terms; refused where the parser refuses it or a shape is not fixed."""
    parsed = _empty_network(api)
    parser, network = parsed.parser, parsed.network
    if not parser.parse(model_bytes):
        refused = _parser_errors(parser)
        named = "; ".join(map(str, refused[:3])) or "it gives no reason"
        count = f"{len(refused)} node{'s' * (len(refused) != 1)}"
        raise BuildError(
            f"{api.title} refuses {count} of this graph: {named}. "
            "`spacecompile inspect BUNDLE --target tensorrt` lists them all."
        )
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if min(tensor.shape, default=0) < 0:
            raise BuildError(
                f"input {tensor.name} has shape {tuple(tensor.shape)}, which is not fixed. Export it anew."
            )
    return parsed


def _parser_errors(parser: Any) -> tuple[IllegalNode, ...]:
    """The parser's errors, one per node."""
    refused: dict[tuple[str, str], IllegalNode] = {}
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        key = (error.node_operator(), error.node_name())
        refused.setdefault(key, IllegalNode(op=key[0], node=key[1], reason=f"is refused: {sentence_of(error.desc())}"))
    return tuple(refused.values())


def _add_profile(parsed: _Parsed, config: Any) -> None:
    """One explicit optimisation profile: every input at its one shape."""
    builder, network = parsed.builder, parsed.network
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        profile.set_shape(tensor.name, tensor.shape, tensor.shape, tensor.shape)
    if config.add_optimization_profile(profile) < 0:
        raise BuildError("the library refuses the graph's input shapes as a profile. Run with -v for its log.")


def _inspected(plan: bytes, api: EngineApi) -> Any:
    """What the inspector says of the engine; None where no GPU here can load it."""
    if api.device is None:
        return None
    trt = api.trt
    runtime = trt.Runtime(logger_of(trt))
    # A version-compatible plan brings code of its own; this one was built a moment ago.
    runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    # Full TensorRT builds for the GPU of this machine; TensorRT-RTX may have built for others, which is no fault.
    if engine is None and api.kind == "tensorrt":
        raise BuildError(
            f"{api.title} built a plan that it can't load again on {api.device.gpu}, for which it was built. "
            "Run with -v for its log."
        )
    if engine is None:
        return None
    inspector = engine.create_engine_inspector()
    return json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _formats(inspected: Any) -> dict[str, int] | None:
    """How often each format and type occurs among the outputs of the engine's layers."""
    if inspected is None:
        return None
    records = [record for record in inspected.get("Layers", []) if isinstance(record, dict)]
    outputs = [output for record in records for output in record.get("Outputs", [])]
    return dict(Counter(str(output.get("Format/Datatype")) for output in outputs).most_common())


def _environment(api: EngineApi) -> dict[str, Any]:
    device = api.device
    return {
        "engine": api.kind,
        "library_version": api.version,
        "library_cuda": api.cuda,
        "cuda": device.cuda if device else None,
        "driver": device.driver if device else None,
        "gpu": device.gpu if device else None,
        "compute_capability": device.compute_capability if device else None,
        "certified": (),
        "spacecompile": __version__,
    }


def _tensors(network: Any) -> dict[str, Any]:
    inputs = tuple(network_tensor(network.get_input(index)) for index in range(network.num_inputs))
    outputs = tuple(network_tensor(network.get_output(index)) for index in range(network.num_outputs))
    return {
        "inputs": inputs,
        "outputs": outputs,
        "profile": {tensor.name: tensor.shape for tensor in inputs},
        "static_shapes": all(extent >= 0 for tensor in (*inputs, *outputs) for extent in tensor.shape),
    }
