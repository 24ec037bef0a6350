"""A graph in ONNX Runtime with other outputs than its own, to look inside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import ModelProto, TensorProto, helper

from spacecompile.runtime.backends.onnxruntime_import import import_onnxruntime

ort: Any = import_onnxruntime()


def session_giving(model: ModelProto, tensors: Sequence[str], *, threads: int) -> Any:
    """A session of a graph whose outputs are some of its float32 tensors.

    Args:
        model: Graph to look into; left as it is.
        tensors: Names of the tensors to give.
        threads: Number of threads per operator.
    """
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
