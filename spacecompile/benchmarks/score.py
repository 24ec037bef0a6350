"""The benchmark's scores of anything that answers frames, against labelled frames.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.answers import Answered
from spacecompile.benchmarks.frames import check_size, frame_of_size
from spacecompile.contract import Cost, ModelSpec, Progress, Tta, no_progress
from spacecompile.data.spark import LabelledFrame, image_size_px, parts_HW_from_mask
from spacecompile.errors import DataError
from spacecompile.metrics import ScoreMeter, Scores, final_score, flops_score, params_score

VIEWS: dict[Tta, int] = {"none": 1, "d4": 8, "d4-median": 8}
"""How often the network runs per frame."""


def charged_score(scores: Scores, cost: Cost, tta: Tta) -> float:
    """`s_final` with every view of test-time augmentation charged; the benchmark itself charges one.

    Args:
        scores: Of a variant.
        cost: Of one forward pass.
        tta: Of the variant.
    """
    views = VIEWS[tta]
    all_views = Cost(params=cost.params, macs_fvcore=views * cost.macs_fvcore, macs_torch=views * cost.macs_torch)
    return final_score(s_acc=scores.s_acc, s_flops=flops_score(all_views), s_params=params_score(cost))


def score_drop(ours: Scores, theirs: Scores) -> float:
    """How far `s_final` falls below another's by its answers alone: the costs are taken to be the same."""
    return final_score(s_acc=theirs.s_acc - ours.s_acc, s_flops=0, s_params=0)


def check_frames(frames: Sequence[LabelledFrame], spec: ModelSpec) -> None:
    """Refuse labelled frames that can't be scored, before minutes of work; reads the files' headers only.

    Raises:
        DataError: If a label names a class that the network does not know, or a frame or mask has another size.
    """
    unknown = sorted({frame.class_name for frame in frames} - set(spec.classes))
    if unknown:
        raise DataError(
            f"the labels name {', '.join(unknown)}; the network knows {', '.join(spec.classes)}. Choose other data."
        )
    for frame in frames:
        for path in (frame.image_path, frame.mask_path):
            check_size(path, image_size_px(path), spec.frame_size_px)


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
        DataError: If the frames don't fit the spec, see `check_frames`.
    """
    check_frames(frames, spec)
    index_by_class = {name: index for index, name in enumerate(spec.classes)}
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
