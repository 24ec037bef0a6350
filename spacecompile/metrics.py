"""The benchmark's scores, in numpy only.

    s_seg  mean over frames and parts of the IoU of the part masks, every frame and part with the same weight
    s_det  mean over the IoU thresholds 0.50:0.05:0.95 of the share of frames whose box IoU reaches the threshold (>=)
    s_cls  share of frames with the right class
    s_acc = 0.4 s_seg + 0.4 s_det + 0.2 s_cls
    s_flops = 1 - GMAC/100        multiply-adds as fvcore counts them; the benchmark calls them GFLOPs
    s_params = 1 - Mparams/30
    s_final = 0.70 s_acc + 0.15 s_flops + 0.15 s_params

The rule for empty parts: a part that is in neither mask has IoU 1, since saying "there is none" is right; a part that
is in one of them only has IoU 0. No frame is left out, and IoUs are averaged, not pixels.

The benchmark does not charge test-time augmentation: `Scores` holds that. `with_cost(..., passes=8)` says what D4 would
score if each of its forward passes counted. Layout legend: H W frame rows and columns, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from spacecompile.contract import PARTS, Cost, Tta
from spacecompile.errors import FrameError
from spacecompile.record import Record

IOU_THRESHOLDS = tuple(twentieths / 20 for twentieths in range(10, 20))
"""0.50:0.05:0.95 of COCO. Quotients, so that an IoU of exactly 7/10 equals its threshold."""

GMACS_SCALE = 100.0
MPARAMS_SCALE = 30.0

FORWARD_PASSES: dict[Tta, int] = {"none": 1, "d4": 8, "d4-median": 8}
"""Per frame: D4 has eight views."""


class ClassScores(Record):
    """Scores over the frames whose true class is one class.

    Attributes:
        frames: Number of them.
        s_cls, s_det, s_seg: Scores of this class alone, see `Scores`.
    """

    frames: int
    s_cls: float
    s_det: float
    s_seg: float


class Scores(Record):
    """Scores of one network on one set of frames; each at most 1, higher is better.

    Attributes:
        s_cls, s_det, s_seg: Classification, boxes, part masks.
        s_acc: Their weighted mean.
        s_flops, s_params: Efficiency; below zero beyond the budget.
        s_final: The benchmark's ranking.
        frames: Number of frames scored.
        per_class: By true class, in the order of the classes; classes without a frame are left out.
        per_part: The share of `s_seg` that each part has: mean IoU over the frames.
    """

    s_cls: float
    s_det: float
    s_seg: float
    s_acc: float
    s_flops: float
    s_params: float
    s_final: float
    frames: int
    per_class: dict[str, ClassScores] = msgspec.field(default_factory=dict)
    per_part: dict[str, float] = msgspec.field(default_factory=dict)


def accuracy_score(*, s_cls: float, s_det: float, s_seg: float) -> float:
    """`s_acc`: segmentation and detection weigh 0.4 each, classification 0.2."""
    return 0.4 * s_seg + 0.4 * s_det + 0.2 * s_cls


def flops_score(cost: Cost, *, passes: int = 1) -> float:
    """`s_flops` of a network.

    Args:
        cost: Cost of one forward pass.
        passes: Forward passes per frame that are charged; the benchmark charges one, whatever the augmentation.
    """
    return 1 - passes * cost.macs_fvcore / 1e9 / GMACS_SCALE


def params_score(cost: Cost) -> float:
    """`s_params` of a network."""
    return 1 - cost.params / 1e6 / MPARAMS_SCALE


def final_score(*, s_acc: float, s_flops: float, s_params: float) -> float:
    """`s_final`: accuracy weighs 0.70, each efficiency score 0.15."""
    return 0.70 * s_acc + 0.15 * s_flops + 0.15 * s_params


def with_cost(scores: Scores, cost: Cost, *, passes: int = 1) -> Scores:
    """The same accuracy at another cost: a rewritten network, or one whose test-time augmentation is charged.

    Args:
        scores: Scores with any cost.
        cost: Cost of one forward pass.
        passes: Forward passes per frame that are charged.
    """
    s_flops, s_params = flops_score(cost, passes=passes), params_score(cost)
    s_final = final_score(s_acc=scores.s_acc, s_flops=s_flops, s_params=s_params)
    return msgspec.structs.replace(scores, s_flops=s_flops, s_params=s_params, s_final=s_final)


def box_iou(box_xyxy: ArrayLike, true_box_xyxy: ArrayLike) -> float:
    """Intersection over union of two boxes.

    Args:
        box_xyxy: Half-open, in frame pixels; may be fractional.
        true_box_xyxy: Labelled box, in the same form.

    Returns:
        0 to 1; 0 when either box is empty.
    """
    box, true_box = np.asarray(box_xyxy, np.float64), np.asarray(true_box_xyxy, np.float64)
    if box.shape != (4,) or true_box.shape != (4,):
        raise FrameError(f"boxes have shapes {box.shape} and {true_box.shape}; a box is (x_min, y_min, x_max, y_max).")
    area_px = _area_px(box[:2], box[2:])
    true_area_px = _area_px(true_box[:2], true_box[2:])
    common_px = _area_px(np.maximum(box[:2], true_box[:2]), np.minimum(box[2:], true_box[2:]))
    if not (area_px > 0 and true_area_px > 0):  # also when a coordinate is NaN
        return 0.0
    return common_px / (area_px + true_area_px - common_px)


def _area_px(low_xy: NDArray[np.float64], high_xy: NDArray[np.float64]) -> float:
    width_px, height_px = np.maximum(high_xy - low_xy, 0.0)
    return float(width_px * height_px)


def detection_score(ious: ArrayLike) -> float:
    """`s_det` from one box IoU per frame."""
    return float((np.asarray(ious, np.float64)[:, None] >= np.asarray(IOU_THRESHOLDS)).mean())


def parts_iou(parts_HW: NDArray[np.uint8], true_parts_HW: NDArray[np.uint8]) -> tuple[float, ...]:
    """IoU of each part in one frame.

    Args:
        parts_HW: Bit k is part k of `contract.PARTS`.
        true_parts_HW: Labelled parts, same size.

    Returns:
        One IoU per part; 1 when the part is empty in both masks.

    Raises:
        FrameError: If the masks differ in size or are not uint8 [H, W].
    """
    if (
        parts_HW.shape != true_parts_HW.shape
        or parts_HW.ndim != 2
        or not parts_HW.dtype == true_parts_HW.dtype == np.uint8
    ):
        raise FrameError(
            f"part masks are {parts_HW.dtype} {parts_HW.shape} and {true_parts_HW.dtype} {true_parts_HW.shape}; "
            "compare uint8 masks of one size (height, width)."
        )
    common_HW, either_HW = parts_HW & true_parts_HW, parts_HW | true_parts_HW
    ious = []
    for part in range(len(PARTS)):
        bit = np.uint8(1 << part)
        either_px = int(np.count_nonzero(either_HW & bit))
        ious.append(int(np.count_nonzero(common_HW & bit)) / either_px if either_px else 1.0)
    return tuple(ious)


@dataclass(kw_only=True)
class ScoreMeter:
    """Collects answers frame by frame and scores them.

    Attributes:
        classes: Names for the per-class breakdown; without them there is none.
    """

    classes: Sequence[str] = ()
    _true_classes: list[int] = field(default_factory=list)
    _right: list[bool] = field(default_factory=list)
    _box_ious: list[float] = field(default_factory=list)
    _parts_ious: list[tuple[float, ...]] = field(default_factory=list)

    def add(
        self,
        class_index: int,
        true_class_index: int,
        parts_HW: NDArray[np.uint8],
        true_parts_HW: NDArray[np.uint8] | None,
        box_xyxy: ArrayLike,
        true_box_xyxy: ArrayLike,
    ) -> None:
        """Add one frame's answer and truth; where its parts are not labelled (None) nothing is shown for them: IoU 0.

        Raises:
            FrameError: If masks or boxes don't fit each other.
        """
        parts_ious = (0.0,) * len(PARTS) if true_parts_HW is None else parts_iou(parts_HW, true_parts_HW)
        iou = box_iou(box_xyxy, true_box_xyxy)
        self._true_classes.append(int(true_class_index))
        self._right.append(int(class_index) == int(true_class_index))
        self._box_ious.append(iou)
        self._parts_ious.append(parts_ious)

    @property
    def frames(self) -> int:
        """Number of frames added."""
        return len(self._right)

    def scores(self, cost: Cost) -> Scores:
        """Score every frame added so far.

        Args:
            cost: Cost of one forward pass, without test-time augmentation.

        Raises:
            FrameError: If no frame was added.
        """
        if not self._right:
            raise FrameError("no frame was scored. Give at least one labelled frame.")
        true_classes = np.asarray(self._true_classes)
        everything = self._task_scores(np.full(self.frames, True))
        s_acc = accuracy_score(**everything)
        s_flops, s_params = flops_score(cost), params_score(cost)
        per_class = {
            name: ClassScores(frames=int(chosen.sum()), **self._task_scores(chosen))
            for index, name in enumerate(self.classes)
            if (chosen := true_classes == index).any()
        }
        return Scores(
            **everything,
            s_acc=s_acc,
            s_flops=s_flops,
            s_params=s_params,
            s_final=final_score(s_acc=s_acc, s_flops=s_flops, s_params=s_params),
            frames=self.frames,
            per_class=per_class,
            per_part=dict(zip(PARTS, np.mean(self._parts_ious, axis=0).tolist(), strict=True)),
        )

    def _task_scores(self, chosen: NDArray[Any]) -> dict[str, float]:
        return {
            "s_cls": float(np.asarray(self._right)[chosen].mean()),
            "s_det": detection_score(np.asarray(self._box_ious)[chosen]),
            "s_seg": float(np.asarray(self._parts_ious)[chosen].mean()),
        }
