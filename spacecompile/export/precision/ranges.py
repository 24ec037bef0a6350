"""The scale of each quantised activation: the one that loses least over calibration frames.

The largest magnitude alone is a poor scale where a few outliers stretch it: values beyond the scale's range are
clipped, and the scale is chosen so that the squared error of clipping and rounding together is least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from spacecompile.contract import INPUT_NAME, Progress, no_progress
from spacecompile.export.precision.probe import session_giving
from spacecompile.export.precision.quantise import QUANTISED_MAX

_NUM_BINS = 2048
_CANDIDATES = np.linspace(0.15, 1.0, 86)
_VALUES_MAX = 400_000
"""Largest number of values that are counted per tensor and frame; of more, every n-th is."""

_CHUNK_VALUES_MAX = 1 << 27
"""Largest number of values in all tensors that are fetched at once: half a gigabyte."""


def activation_scales(
    model: ModelProto,
    largest: Mapping[str, float],
    frames_HWC: Sequence[NDArray[np.uint8]],
    *,
    threads: int,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Choose a scale for each tensor.

    Args:
        model: float32 graph with inferred types.
        largest: Tensors to choose for, with their largest magnitude over the frames.
        frames_HWC: Calibration frames.
        threads: Number of threads of ONNX Runtime.
        progress: Callback for progress.

    Returns:
        Scale by tensor name: a code times it is the value.
    """
    counts = {name: np.zeros(_NUM_BINS) for name in largest}
    chunks = _chunks(model, list(largest))
    for index, names in enumerate(chunks):
        session = session_giving(model, names, threads=threads)
        for done, frame_HWC in enumerate(frames_HWC, start=1):
            for name, values in zip(names, session.run(names, {INPUT_NAME: frame_HWC}), strict=True):
                flat = values.reshape(-1)[:: max(1, values.size // _VALUES_MAX)]
                counts[name] += np.histogram(np.abs(flat), bins=_NUM_BINS, range=(0.0, max(largest[name], 1e-12)))[0]
            progress("ranges", index * len(frames_HWC) + done, len(chunks) * len(frames_HWC))
    return {name: best_scale(counts[name], max(largest[name], 1e-12)) for name in largest}


def _chunks(model: ModelProto, names: Sequence[str]) -> list[list[str]]:
    """The tensors in groups that are fetched together, so that memory stays bounded for any network."""
    num_values = {
        info.name: math.prod(extent.dim_value for extent in info.type.tensor_type.shape.dim)
        for info in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    chunks: list[list[str]] = [[]]
    total = 0
    for name in names:
        if chunks[-1] and total + num_values[name] > _CHUNK_VALUES_MAX:
            chunks.append([])
            total = 0
        chunks[-1].append(name)
        total += num_values[name]
    return chunks


def best_scale(counts: NDArray[np.float64], largest: float) -> float:
    """The scale with the least squared error.

    Args:
        counts: Number of magnitudes in bins of equal width from 0 to `largest`.
        largest: Upper end of the last bin.
    """
    centres = (np.arange(len(counts)) + 0.5) * (largest / len(counts))
    scales = _CANDIDATES * (largest / QUANTISED_MAX)
    codes = np.minimum(np.rint(centres / scales[:, None]), QUANTISED_MAX)
    # Rounding inside a bin: a bin is narrower than a step, so its centre may stand for it.
    errors = ((codes * scales[:, None] - centres) ** 2 * counts).sum(axis=1)
    return float(scales[int(errors.argmin())])
