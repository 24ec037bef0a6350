"""What a run's page shows of single frames: which class was taken for which, and the worst answers as pictures.

Layout legend: L classes, C channels, H W rows and columns.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from spacecompile.contract import BoxRule, ModelSpec
from spacecompile.metrics import accuracy_score, box_iou, detection_score, parts_iou
from spacecompile.runtime.overlay import draw_marks
from spacecompile.train.box_profile import box_from_profile
from spacecompile.train.evaluate import FrameAnswer

WORST_FRAMES = 8
PICTURE_SIDE_PX = 480
PICTURE_QUALITY = 88


@dataclass(frozen=True, kw_only=True)
class JudgedFrame:
    """One answer with its truth, small enough to keep.

    Attributes:
        score: `s_acc` of this frame alone.
        box_iou: Of the box.
        parts_ious: Of body and panel.
        answer, truth: What was said, and what is so.
        frame_HWC: RGB at input size.
        box_xyxy, true_box_xyxy: In pixels of `parts_HW`.
        parts_HW, true_parts_HW: At the frame's size.
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
        spec: Of the network that answers.
        rule: For its boxes.
        confusion_LL: Number of frames by true class (rows) and answered class (columns).
        worst: Lowest score first.
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
        ious, iou = parts_iou(answer.parts_HW, truth.parts_HW), box_iou(box_xyxy, truth.box_xyxy)
        is_right = answer.class_index == truth.class_index
        return JudgedFrame(
            score=accuracy_score(s_cls=float(is_right), s_det=detection_score([iou]), s_seg=float(np.mean(ious))),
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
    """A frame with the answer or the truth drawn on it, as base64 of a JPEG.

    Args:
        judged: The frame.
        of_truth: Which of the two.
    """
    parts_HW = judged.true_parts_HW if of_truth else judged.parts_HW
    box_xyxy = judged.true_box_xyxy if of_truth else judged.box_xyxy
    scale = PICTURE_SIDE_PX / max(parts_HW.shape)
    size_px = (round(parts_HW.shape[1] * scale), round(parts_HW.shape[0] * scale))
    drawn_HW = np.asarray(Image.fromarray(parts_HW).resize(size_px, Image.Resampling.NEAREST))
    frame_HWC = np.asarray(Image.fromarray(judged.frame_HWC).resize(size_px, Image.Resampling.BILINEAR))
    stream = io.BytesIO()
    draw_marks(frame_HWC, drawn_HW, box_xyxy * scale).save(stream, format="JPEG", quality=PICTURE_QUALITY)
    return base64.b64encode(stream.getvalue()).decode()
