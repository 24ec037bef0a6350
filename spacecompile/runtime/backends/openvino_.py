"""OpenVINO on the CPU: the same sealed graph, in float32 or, where the CPU has it, in bf16.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import INPUT_NAME, OUTPUT_NAMES, Precision
from spacecompile.errors import FrameError, IntegrityError, MissingPartError, UsageError
from spacecompile.runtime.backend import (
    GpuOptions,
    GraphTensor,
    RawAnswer,
    SynchronousBackend,
    require_threads,
    signature_from_tensors,
)
from spacecompile.runtime.backends import openvino_cache
from spacecompile.runtime.backends.openvino_cache import BlobCache
from spacecompile.runtime.backends.openvino_import import import_openvino, openvino_core

_ov: Any = import_openvino()

# What OpenVINO computes in, by the variant's precision. Only bf16 asks it to round what the file holds in more bits.
# An fp16 file has float32 islands that a hint of f16 would overrun, and f16 is slower than f32 besides (1.18 times the
# CPU time on a Xeon with AVX512-FP16, reference network): it runs in f32. int8 lies in the file's Q/DQ.
_HINTS: dict[Precision, str] = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}

# Layers with nearly all of the multiply-adds, as the CPU plugin calls them.
_HEAVY_LAYERS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
_BF16_SHARE_MIN = 0.9
"""Least share of the heavy layers in bf16; measured on the reference network: 65 of 65."""

_log = logging.getLogger(__name__)


class OpenVinoBackend(SynchronousBackend):
    """One graph in one OpenVINO model, deterministic from run to run for a given thread count."""

    name = "openvino"
    version: str = _ov.__version__.split("-")[0]

    def __init__(
        self,
        model_bytes: bytes,
        *,
        precision: Precision = "fp32",
        threads: int,
        spinning: bool,  # noqa: ARG002  OpenVINO has no such switch
        cache: bool = True,
        gpu: GpuOptions | None = None,  # noqa: ARG002  it uses none
        cache_folder: Path | None = None,
    ) -> None:
        """Compile the graph, or take it compiled from a cache; see `registry.BackendFactory`.

        The cache is `cache_folder`, or the user's own if that is None. `_HINTS` says what is computed in.
        """
        config = compile_config(precision, threads)
        blobs = BlobCache.open(cache_folder or openvino_cache.user_cache_folder()) if cache else None
        core = openvino_core()
        compiled = _compiled(core, model_bytes, config, blobs=blobs, cpu=_cpu_facts(core))
        require_realised(precision, compiled)
        _warn_of_fewer_threads(compiled, threads)
        self.signature = signature_from_tensors(_graph_tensors(compiled.inputs), _graph_tensors(compiled.outputs))
        self._request = compiled.create_infer_request()

    def run(self, frame_HWC: NDArray[np.uint8]) -> RawAnswer:
        """Answer one frame; see `Backend.run`."""
        if self._request is None:
            raise UsageError("this backend is closed. Load the bundle again.")
        expected = (*self.signature.frame_size_px, 3)
        if frame_HWC.shape != expected or frame_HWC.dtype != np.uint8:
            raise FrameError(
                f"the frame has shape {frame_HWC.shape} and dtype {frame_HWC.dtype}; the graph takes uint8 {expected}. "
                "Check its shape and dtype."
            )
        try:
            # Copied in, because OpenVINO takes over writable arrays only; copied out, because the next run writes to
            # the same buffers.
            self._request.get_tensor(INPUT_NAME).data[:] = frame_HWC
            self._request.infer()
            outputs = [self._request.get_tensor(name).data.copy() for name in OUTPUT_NAMES]
        except RuntimeError as error:
            raise failed_run(error) from error
        class_probs_L, parts_HW, box_xyxy, health = outputs
        return RawAnswer(class_probs_L=class_probs_L, parts_HW=parts_HW, box_xyxy=box_xyxy, health=health)

    def close(self) -> None:
        """Free the model's memory. Closing twice is harmless."""
        self._request = None


def failed_run(error: RuntimeError) -> IntegrityError:
    """What a run that OpenVINO gave up is to a user.

    Args:
        error: Exception that OpenVINO raised.
    """
    return IntegrityError(
        f"OpenVINO {OpenVinoBackend.version} failed on the graph: {_last_line(error)} Check the free memory; "
        "if that is not it, verify the bundle with `spacecompile verify`."
    )


def require_bf16(capabilities: list[str]) -> None:
    """Refuse a CPU that does not compute in bf16.

    Args:
        capabilities: OpenVINO's `OPTIMIZATION_CAPABILITIES` of the CPU.

    Raises:
        MissingPartError: If bf16 is not among the capabilities.
    """
    if "BF16" not in capabilities:
        raise MissingPartError(
            f"OpenVINO {OpenVinoBackend.version} does not compute in bf16 on this CPU, only in "
            f"{', '.join(capabilities)}. Use the fp32 variant, or a CPU with AMX or AVX512-BF16."
        )


def require_realised(precision: Precision, compiled: Any) -> None:
    """Read back what a compiled model computes in: a variant named bf16 that is not is refused, and the other way.

    Args:
        precision: Precision that was asked for.
        compiled: OpenVINO's compiled model.

    Raises:
        MissingPartError: If the model computes in something else.
    """
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    heavy = [
        str(facts["runtimePrecision"].value)
        for node in compiled.get_runtime_model().get_ops()
        if (facts := node.get_rt_info())["layerType"].value in _HEAVY_LAYERS
    ]
    rounded = heavy.count("bf16")
    wants_bf16 = precision == "bf16"
    fits = rounded >= _BF16_SHARE_MIN * len(heavy) if wants_bf16 else rounded == 0
    if hint != _HINTS[precision] or not fits:
        raise MissingPartError(
            f"OpenVINO {OpenVinoBackend.version} was asked for {_HINTS[precision]}, but compiled the graph for {hint} "
            f"with {rounded} of {len(heavy)} layers in bf16 on this CPU. "
            + ("Use the fp32 variant." if wants_bf16 else "Choose backend onnxruntime.")
        )
    # Which layers the file leaves in float32 is its own affair (57 of 65 in i8, reference network): none is too few.
    if precision == "int8" and heavy and not {"i8", "u8"} & set(heavy):
        raise MissingPartError(
            f"OpenVINO {OpenVinoBackend.version} compiled none of the {len(heavy)} layers that multiply in int8 on "
            "this CPU. Use the fp32 variant, or choose backend onnxruntime."
        )


def compile_config(precision: Precision, threads: int) -> dict[str, Any]:
    """How every graph is compiled for OpenVINO here.

    Raises:
        UsageError: If `threads` is below one.
        MissingPartError: If the precision is bf16 and this CPU does not compute in it, or OpenVINO has no plugin for
            this CPU.
    """
    require_threads(threads)
    cpu = _cpu_facts(openvino_core())
    if precision == "bf16":
        require_bf16(cpu["OPTIMIZATION_CAPABILITIES"])
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        # Nothing is rounded beyond that hint.
        "EXECUTION_MODE_HINT": "ACCURACY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # Pinned threads of two processes would all sit on the first cores (1.3 times the time beside other load).
        "ENABLE_CPU_PINNING": False,
    }


def _cpu_facts(core: Any) -> dict[str, Any]:
    """Name of the CPU, and OpenVINO's names of what it computes in."""
    try:
        return {name: core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")}
    except RuntimeError as error:
        raise MissingPartError(
            f"OpenVINO {OpenVinoBackend.version} does not run on this CPU: {_last_line(error)} "
            "Choose backend onnxruntime."
        ) from error


def _compiled(
    core: Any, model_bytes: bytes, config: dict[str, Any], *, blobs: BlobCache | None, cpu: dict[str, Any]
) -> Any:
    """The model from the cache if it is there and sound, else compiled and put there."""
    if blobs is None:
        return compile_graph(core, model_bytes, config)
    key = _key(model_bytes, {"cpu": cpu, "config": config})
    blob = blobs.read(key)
    if blob is not None:
        try:
            return core.import_model(blob, "CPU", config)
        except RuntimeError as error:
            _log.warning("OpenVINO refuses the compiled model of its cache, compiling again: %s", _last_line(error))
    compiled = compile_graph(core, model_bytes, config)
    stream = io.BytesIO()
    try:
        compiled.export_model(stream)
    except RuntimeError as error:
        _log.warning("the compiled model is not kept: OpenVINO can't export it: %s", _last_line(error))
    else:
        blobs.write(key, stream.getvalue())
    return compiled


def compile_graph(core: Any, model_bytes: bytes, config: dict[str, Any]) -> Any:
    """Compile any ONNX graph.

    Raises:
        IntegrityError: If OpenVINO refuses the graph.
    """
    try:
        return core.compile_model(core.read_model(model_bytes), "CPU", config)
    except RuntimeError as error:
        raise IntegrityError(
            f"OpenVINO {OpenVinoBackend.version} refuses the graph in {config['INFERENCE_PRECISION_HINT']}: "
            f"{_last_line(error)} Build the bundle again, install an OpenVINO as new as the one in its manifest, or "
            "choose backend onnxruntime."
        ) from error


def _key(model_bytes: bytes, circumstances: dict[str, Any]) -> str:
    """Everything that shapes a compiled model, as the SHA-256 of its JSON."""
    # OpenVINO's own key leaves out the precision: f32 and bf16 of one file get the same (2026.4).
    facts = {"model": hashlib.sha256(model_bytes).hexdigest(), "openvino": _ov.__version__, **circumstances}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _warn_of_fewer_threads(compiled: Any, threads: int) -> None:
    """Log that OpenVINO uses another number of threads than it was asked to."""
    realised = compiled.get_property("INFERENCE_NUM_THREADS")
    if realised != threads:
        _log.warning("OpenVINO uses %d threads, not %d: it takes no more than it sees cores", realised, threads)


def _graph_tensors(ports: Any) -> list[GraphTensor]:
    """Inputs or outputs of a compiled model."""
    tensors = []
    for port in ports:
        # One tensor can carry several names, that of the node behind it among them.
        name = next((name for name in (INPUT_NAME, *OUTPUT_NAMES) if name in port.names), port.any_name)
        shape = tuple(extent.get_length() if extent.is_static else -1 for extent in port.partial_shape)
        tensors.append(GraphTensor(name=name, dtype=port.element_type.to_dtype().name, shape=shape))
    return tensors


def _last_line(error: Exception) -> str:
    """The cause: OpenVINO puts the places in its source that passed it on before it."""
    text = str(error).strip().splitlines()[-1].strip()
    return text if text.endswith(".") else text + "."
