"""ONNX Runtime on the CPU: the backend of the base install.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import INPUT_NAME, OUTPUT_NAMES, Precision
from spacecompile.errors import FrameError, IntegrityError, UsageError
from spacecompile.runtime.backend import (
    GpuOptions,
    GraphSignature,
    GraphTensor,
    RawAnswer,
    SynchronousBackend,
    require_threads,
    signature_from_tensors,
)
from spacecompile.runtime.backends.onnxruntime_import import import_onnxruntime

ort: Any = import_onnxruntime()
ort_errors: Any = ort.capi.onnxruntime_pybind11_state

# ONNX Runtime's exceptions share no base class but Exception.
ORT_ERRORS = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    # Of its Python part: a provider whose libraries can't be loaded, an option that it does not know.
    RuntimeError,
    ValueError,
)

_NUMPY_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}


class OnnxRuntimeBackend(SynchronousBackend):
    """One graph in one ONNX Runtime session, deterministic from run to run for a given thread count."""

    name = "onnxruntime"
    version: str = ort.__version__

    def __init__(
        self,
        model_bytes: bytes,
        *,
        precision: Precision = "fp32",
        threads: int,
        spinning: bool,
        cache: bool = True,  # noqa: ARG002  it keeps nothing
        gpu: GpuOptions | None = None,  # noqa: ARG002  it uses none
    ) -> None:
        """Parse and optimise the graph; see `registry.BackendFactory`. Of the precisions only bf16 is refused."""
        session = open_on_cpu(model_bytes, precision=precision, threads=threads, spinning=spinning)
        self.signature = signature_of(session)
        self._session: Any = session

    def run(self, frame_HWC: NDArray[np.uint8]) -> RawAnswer:
        """Answer one frame; see `Backend.run`."""
        # Outputs are not bound to buffers of ours: ONNX Runtime allocates them anew for every run, so that the
        # caller owns them without a copy.
        if self._session is None:
            raise UsageError("this backend is closed. Load the bundle again.")
        try:
            outputs = self._session.run(OUTPUT_NAMES, {INPUT_NAME: frame_HWC})
        except ort_errors.InvalidArgument as error:
            raise FrameError(
                f"ONNX Runtime refuses the frame: {first_line(error)} Check its shape and dtype."
            ) from error
        except ORT_ERRORS as error:
            raise failed_run(error) from error
        class_probs_L, parts_HW, box_xyxy, health = outputs
        return RawAnswer(class_probs_L=class_probs_L, parts_HW=parts_HW, box_xyxy=box_xyxy, health=health)

    def close(self) -> None:
        """Free the session's memory and threads. Closing twice is harmless."""
        self._session = None


def failed_run(error: Exception) -> IntegrityError:
    """What a run that ONNX Runtime gave up is to a user.

    Args:
        error: One of `ORT_ERRORS`.
    """
    return IntegrityError(
        f"ONNX Runtime {ort.__version__} failed on the graph: {first_line(error)} Check the free memory; "
        "if that is not it, verify the bundle with `spacecompile verify`."
    )


def open_on_cpu(
    model_bytes: bytes, *, precision: Precision, threads: int, spinning: bool, profile_path: Path | None = None
) -> Any:
    """A session on the CPU with the settings that every graph gets here.

    Args:
        model_bytes: Content of a self-contained ONNX file.
        precision: Precision that the engine shall compute in.
        threads: Number of threads per operator.
        spinning: Whether idle threads wait busily.
        profile_path: Beginning of the path of the profile that ONNX Runtime writes; None to write none.

    Raises:
        UsageError: If `threads` is below one, or the precision is bf16.
        IntegrityError: If ONNX Runtime refuses the graph.
    """
    if precision == "bf16":
        raise UsageError("ONNX Runtime's CPU provider does not compute in bf16. Choose backend openvino.")
    require_threads(threads)
    options = session_options(threads, spinning)
    if profile_path is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_path)
    try:
        return open_session(model_bytes, options, "CPUExecutionProvider")
    except ORT_ERRORS as error:
        raise refused_graph(error) from error


def refused_graph(error: Exception) -> IntegrityError:
    """What a graph that ONNX Runtime does not load is to a user.

    Args:
        error: One of `ORT_ERRORS`.
    """
    return IntegrityError(
        f"ONNX Runtime {ort.__version__} refuses the graph: {first_line(error)} "
        "Build the bundle again, or install an ONNX Runtime as new as the one in its manifest."
    )


def session_options(threads: int, spinning: bool) -> Any:
    """How every graph runs in ONNX Runtime here."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    # Its warnings about initializers and providers tell a user nothing to act on; errors arrive as exceptions.
    options.log_severity_level = 4
    return options


def open_session(
    model_bytes: bytes | None, options: Any, provider: str, provider_options: Mapping[str, str] | None = None
) -> Any:
    """A session of ONNX Runtime on one provider.

    Without `enable_fallback=0` it would print an error of the provider and try another one, and again at every run.

    Raises:
        Exception: One of `ORT_ERRORS`.
    """
    return ort.InferenceSession(
        model_bytes, sess_options=options, providers=[(provider, dict(provider_options or {}))], enable_fallback=0
    )


def signature_of(session: Any) -> GraphSignature:
    """Signature of the sealed graph that a session holds.

    Raises:
        IntegrityError: If the session holds another graph.
    """
    return signature_from_tensors(_graph_tensors(session.get_inputs()), _graph_tensors(session.get_outputs()))


def _graph_tensors(nodes: Any) -> list[GraphTensor]:
    """Inputs or outputs of a session; an extent that is not fixed is a name or None there."""
    return [
        GraphTensor(
            name=node.name,
            dtype=_NUMPY_DTYPES.get(node.type, node.type),
            shape=tuple(extent if isinstance(extent, int) else -1 for extent in node.shape),
        )
        for node in nodes
    ]


def first_line(error: Exception) -> str:
    """What ONNX Runtime says, as one sentence."""
    text = str(error).strip().splitlines()[0]
    return text if text.endswith(".") else text + "."
