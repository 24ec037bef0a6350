"""The largest magnitude of every float tensor of a graph over calibration frames, measured inside the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper

from spacecompile.contract import INPUT_NAME, Progress, no_progress
from spacecompile.export.precision.graph import GraphView
from spacecompile.export.precision.probe import session_giving

UNBOUNDED = 1e30
"""Stands for an infinity or a NaN: JSON has neither."""

_OUTPUT = "largest magnitudes"


def largest_magnitudes(
    model: ModelProto,
    frames_HWC: Sequence[NDArray[np.uint8]],
    *,
    threads: int,
    progress: Progress = no_progress,
    step: str = "magnitudes",
) -> dict[str, float]:
    """Measure every float tensor that depends on the frame.

    Each tensor is reduced to one number inside the graph, so that memory stays that of a plain run.

    Args:
        model: float32 graph with inferred types.
        frames_HWC: Frames of the graph's size, at least one.
        threads: Number of threads of ONNX Runtime.
        progress: Callback for progress.
        step: Name of the step for `progress`.

    Returns:
        Largest absolute value by tensor name; `UNBOUNDED` for a tensor that overflowed or was not a number.
    """
    view = GraphView(model)
    names = [name for node in model.graph.node for name in view.float_tensors(node.output)]
    session = _probe_session(model, names, threads)
    largest_T = np.zeros(len(names))
    for done, frame_HWC in enumerate(frames_HWC, start=1):
        (seen_T,) = session.run([_OUTPUT], {INPUT_NAME: frame_HWC})
        largest_T = np.maximum(largest_T, np.nan_to_num(seen_T, nan=UNBOUNDED, posinf=UNBOUNDED))
        progress(step, done, len(frames_HWC))
    return dict(zip(names, largest_T.tolist(), strict=True))


def _probe_session(model: ModelProto, names: Sequence[str], threads: int) -> Any:
    probe = ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    for index, name in enumerate(names):
        graph.node.append(helper.make_node("Abs", [name], [f"probe {index} abs"]))
        graph.node.append(helper.make_node("ReduceMax", [f"probe {index} abs"], [f"probe {index} max"], keepdims=0))
        graph.node.append(helper.make_node("Reshape", [f"probe {index} max", "probe shape"], [f"probe {index}"]))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "probe shape"))
    graph.node.append(helper.make_node("Concat", [f"probe {index}" for index in range(len(names))], [_OUTPUT], axis=0))
    return session_giving(probe, [_OUTPUT], threads=threads)
