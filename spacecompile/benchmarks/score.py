"""The benchmark's scores of anything that answers frames, against labelled frames.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.answers import Answered
from spacecompile.benchmarks.frames import frame_of_size
from spacecompile.contract import Cost, ModelSpec, Progress, no_progress
from spacecompile.data.spark import LabelledFrame, parts_HW_from_mask
from spacecompile.errors import DataError
from spacecompile.metrics import ScoreMeter, Scores


def evaluate(
    answer: Callable[[NDArray[np.uint8]], Answered],
    frames: Sequence[LabelledFrame],
    *,
    spec: ModelSpec,
    cost: Cost,
    step: str = "score",
    progress: Progress = no_progress,
) -> Scores:
    """Answer every frame and score the answers.

    Args:
        answer: From an RGB frame of the spec's size.
        frames: With their labels.
        spec: For class order and frame size.
        cost: That the efficiency scores charge: one forward pass, test-time augmentation not charged.
        step: Name in the progress.
        progress: Told the frames done.

    Raises:
        DataError: If a label names a class that the network does not know, or a frame has another size.
    """
    index_by_class = {name: index for index, name in enumerate(spec.classes)}
    unknown = sorted({frame.class_name for frame in frames} - index_by_class.keys())
    if unknown:
        raise DataError(
            f"the labels name {', '.join(unknown)}; the network knows {', '.join(spec.classes)}. Choose other data."
        )
    meter = ScoreMeter(classes=spec.classes)
    progress(step, 0, len(frames))
    for done, frame in enumerate(frames, start=1):
        given = answer(frame_of_size(frame.image_path, spec.frame_size_px))
        meter.add(
            int(given.class_probs_L.argmax()),
            index_by_class[frame.class_name],
            given.parts_HW,
            parts_HW_from_mask(frame.mask_path),
            given.box_xyxy,
            frame.box_xyxy,
        )
        progress(step, done, len(frames))
    return meter.scores(cost)
