"""The benchmark's scores of anything that answers frames, against labelled frames.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.agreement import Answered
from spacecompile.benchmarks.frame_stream import check_size, frame_of_size
from spacecompile.contract import Cost, ModelSpec, Progress, Tta, no_progress
from spacecompile.data.broken import BrokenFile, BrokenFiles
from spacecompile.data.labels import LabelledFrame
from spacecompile.data.spark import image_size_px, read_parts_HW
from spacecompile.errors import DataError, FrameError
from spacecompile.metrics import FORWARD_PASSES, ScoreMeter, Scores, final_score, with_cost


def charged_score(scores: Scores, cost: Cost, tta: Tta) -> float:
    """`s_final` with every view of test-time augmentation charged; the benchmark itself charges one.

    Args:
        scores: Scores of a variant.
        cost: Cost of one forward pass.
        tta: Test-time augmentation of the variant.
    """
    return with_cost(scores, cost, passes=FORWARD_PASSES[tta]).s_final


def score_drop(ours: Scores, theirs: Scores) -> float:
    """How far `s_final` falls below another's by its answers alone: the costs are taken to be the same."""
    return final_score(s_acc=theirs.s_acc - ours.s_acc, s_flops=0, s_params=0)


def check_frames(frames: Sequence[LabelledFrame], spec: ModelSpec) -> None:
    """Refuse labelled frames that can't be scored, before minutes of work; reads the files' headers only.

    Raises:
        DataError: If a label names a class that the network does not know, a frame has another size, or too many files
            are broken, see `data.broken`.
    """
    _checked(frames, spec)


def _checked(frames: Sequence[LabelledFrame], spec: ModelSpec) -> BrokenFiles:
    """What `check_frames` tells, and the broken frames that it tolerated."""
    unknown = sorted({frame.class_name for frame in frames} - set(spec.classes))
    if unknown:
        raise DataError(
            f"the labels name {', '.join(unknown)}; the network knows {', '.join(spec.classes)}. Choose other data."
        )
    broken = BrokenFiles(len(frames), name="the frames to score")
    for frame in frames:
        try:
            size_px = image_size_px(frame.image_path)
            mask_size_px = size_px if frame.mask_path is None else image_size_px(frame.mask_path)
        except (FrameError, DataError) as error:
            broken.add(BrokenFile(path=frame.image_path, reason=str(error)))
            continue
        check_size(frame.image_path, size_px, spec.frame_size_px)
        if mask_size_px != size_px:
            mask, of_frame = ("x".join(map(str, size)) for size in (mask_size_px, size_px))
            reason = f"{frame.mask_path} has {mask} pixels and its frame {of_frame} (height x width)"
            broken.add(BrokenFile(path=frame.image_path, reason=reason))
    return broken


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

    Broken files are counted, logged and left out. Frames whose parts are not labelled score 0 for them.

    Args:
        answer: From an RGB frame of the spec's size.
        frames: With their labels.
        spec: For class order and frame size.
        cost: Cost that the efficiency scores charge: one forward pass, test-time augmentation not charged.
        step: Name in the progress.
        progress: Told the frames done.

    Raises:
        DataError: If the frames don't fit the spec or too many are broken, see `check_frames`.
    """
    broken = _checked(frames, spec)
    index_by_class = {name: index for index, name in enumerate(spec.classes)}
    meter = ScoreMeter(classes=spec.classes)
    progress(step, 0, len(frames))
    for done, frame in enumerate(frames, start=1):
        decoded = _decoded(frame, spec)
        if isinstance(decoded, BrokenFile):
            broken.add(decoded)
        else:
            frame_HWC, true_parts_HW = decoded
            given = answer(frame_HWC)
            meter.add(
                int(given.class_probs_L.argmax()),
                index_by_class[frame.class_name],
                given.parts_HW,
                true_parts_HW,
                given.box_xyxy,
                frame.box_xyxy,
            )
        progress(step, done, len(frames))
    return meter.scores(cost)


def _decoded(frame: LabelledFrame, spec: ModelSpec) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None] | BrokenFile:
    """Pixels and part bits of a frame; None for the parts where they are not labelled."""
    try:
        frame_HWC = frame_of_size(frame.image_path, spec.frame_size_px)
        return frame_HWC, read_parts_HW(frame, frame_HWC.shape[:2])
    except (FrameError, DataError) as error:
        return BrokenFile(path=frame.image_path, reason=str(error))
