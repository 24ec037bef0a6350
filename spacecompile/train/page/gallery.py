"""What a run's page shows of single frames: which class was taken for which, and the worst answers as pictures.

Layout legend: L classes, C channels, H W rows and columns.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from spacecompile.box_rule import BoxRule
from spacecompile.contract import ModelSpec
from spacecompile.metrics import accuracy_score, box_iou, detection_score, parts_iou
from spacecompile.runtime.overlay import draw_marks
from spacecompile.train.box.profile import box_from_profile
from spacecompile.train.evaluate import FrameAnswer

WORST_FRAMES = 8
PICTURE_SIDE_PX = 480
PICTURE_QUALITY = 88
WINDOW_GROWTH = 1.5
WINDOW_SHARE_MIN = 0.15
"""Smallest side of a picture's window over the frame's: a closer view would only show blur."""


@dataclass(frozen=True, kw_only=True)
class JudgedFrame:
    """One answer with its truth, small enough to keep.

    Attributes:
        score: `s_acc` of this frame alone.
        box_iou: IoU of the answered box with the true one.
        parts_ious: IoU of body and of panel; empty where the parts are not labelled.
        answer, truth: Name of the answered class and of the true one.
        frame_HWC: RGB frame at input size.
        box_xyxy, true_box_xyxy: Answered and true box in pixels of `parts_HW`.
        parts_HW, true_parts_HW: Answered and true parts at the frame's size.
    """

    score: float
    box_iou: float
    parts_ious: tuple[float, ...]
    answer: str
    truth: str
    frame_HWC: NDArray[np.uint8]
    box_xyxy: NDArray[np.float64]
    true_box_xyxy: NDArray[np.float64]
    parts_HW: NDArray[np.uint8]
    true_parts_HW: NDArray[np.uint8]


@dataclass(kw_only=True)
class Gallery:
    """Collects answers as they come and keeps the worst.

    Attributes:
        spec: Spec of the network that answers.
        rule: Rule that makes the network's boxes.
        confusion_LL: Number of frames by true class (rows) and answered class (columns).
        worst: Frames with the lowest scores, the lowest first.
    """

    spec: ModelSpec
    rule: BoxRule
    confusion_LL: NDArray[np.int64] = field(init=False)
    worst: list[JudgedFrame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.confusion_LL = np.zeros((len(self.spec.classes), len(self.spec.classes)), np.int64)

    def passing(self, answers: Iterable[FrameAnswer]) -> Iterator[FrameAnswer]:
        """The answers themselves, each noted as it passes."""
        for answer in answers:
            self._add(answer)
            yield answer

    def _add(self, answer: FrameAnswer) -> None:
        self.confusion_LL[answer.truth.class_index, answer.class_index] += 1
        judged = self._judged(answer)
        if len(self.worst) < WORST_FRAMES or judged.score < self.worst[-1].score:
            # Sorting is stable: among equals the first frames stay.
            self.worst = sorted([*self.worst, judged], key=lambda frame: frame.score)[:WORST_FRAMES]

    def _judged(self, answer: FrameAnswer) -> JudgedFrame:
        truth, classes = answer.truth, self.spec.classes
        box_xyxy = box_from_profile(answer.profile, self.rule, self.spec.frame_size_px)
        ious = parts_iou(answer.parts_HW, truth.parts_HW) if truth.has_parts else ()
        iou = box_iou(box_xyxy, truth.box_xyxy)
        is_right = answer.class_index == truth.class_index
        # A frame without labelled parts is ranked by its class and box.
        s_det = detection_score([iou])
        s_seg = float(np.mean(ious)) if ious else s_det
        return JudgedFrame(
            score=accuracy_score(s_cls=float(is_right), s_det=s_det, s_seg=s_seg),
            box_iou=iou,
            parts_ious=ious,
            answer=classes[answer.class_index],
            truth=classes[truth.class_index],
            frame_HWC=truth.input_CHW.permute(1, 2, 0).round().to(torch.uint8).numpy(),
            box_xyxy=box_xyxy,
            true_box_xyxy=np.asarray(truth.box_xyxy, np.float64),
            parts_HW=answer.parts_HW,
            true_parts_HW=truth.parts_HW,
        )


def picture(judged: JudgedFrame, *, of_truth: bool) -> str:
    """The part of a frame around both boxes with the answer or the truth drawn on it, as base64 of a JPEG.

    Args:
        judged: Frame with its answer and its truth.
        of_truth: Whether the truth is drawn instead of the answer.
    """
    parts_HW = judged.true_parts_HW if of_truth else judged.parts_HW
    box_xyxy = judged.true_box_xyxy if of_truth else judged.box_xyxy
    height_px, width_px = parts_HW.shape
    window_xyxy = window_around([judged.box_xyxy, judged.true_box_xyxy], (height_px, width_px))
    scale = PICTURE_SIDE_PX / float((window_xyxy[2:] - window_xyxy[:2]).max())
    left, top, right, bottom = window_xyxy
    size_px = (round((right - left) * scale), round((bottom - top) * scale))
    frame = Image.fromarray(judged.frame_HWC)
    part = np.array([frame.width / width_px, frame.height / height_px] * 2)
    frame_HWC = np.asarray(frame.resize(size_px, Image.Resampling.BICUBIC, box=tuple(window_xyxy * part)))
    drawn_HW = np.asarray(
        Image.fromarray(parts_HW).resize(size_px, Image.Resampling.NEAREST, box=(left, top, right, bottom))
    )
    drawn_xyxy = (box_xyxy - np.tile(window_xyxy[:2], 2)) * scale
    stream = io.BytesIO()
    # Without subsampling, which would wash out the coloured lines.
    draw_marks(frame_HWC, drawn_HW, drawn_xyxy).save(stream, format="JPEG", quality=PICTURE_QUALITY, subsampling=0)
    return base64.b64encode(stream.getvalue()).decode()


def window_around(boxes_xyxy: Sequence[NDArray[np.float64]], frame_size_px: tuple[int, int]) -> NDArray[np.float64]:
    """A square, where the frame allows one, that holds all boxes with some room, inside the frame.

    Args:
        boxes_xyxy: Boxes in frame pixels; empty ones don't count.
        frame_size_px: Height and width of the frame.

    Returns:
        xyxy in frame pixels, not rounded; the whole frame when every box is empty.
    """
    limits_xy = np.array([frame_size_px[1], frame_size_px[0]], np.float64)
    there = [box for box in boxes_xyxy if (box[2:] > box[:2]).all()]
    if not there:
        return np.concatenate([np.zeros(2), limits_xy])
    low_xy, high_xy = np.min([box[:2] for box in there], 0), np.max([box[2:] for box in there], 0)
    side_px = max(WINDOW_GROWTH * float((high_xy - low_xy).max()), WINDOW_SHARE_MIN * float(limits_xy.max()))
    sides_xy = np.minimum(side_px, limits_xy)
    start_xy = np.clip((low_xy + high_xy - sides_xy) / 2, 0, limits_xy - sides_xy)
    return np.concatenate([start_xy, start_xy + sides_xy])
