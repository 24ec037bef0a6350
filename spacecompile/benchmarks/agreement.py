"""What variants and peers are compared by: class probabilities, part masks and a box of one frame.

Layout legend: H, W frame rows and columns; K parts; L classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import PARTS, ModelSpec
from spacecompile.metrics import parts_iou
from spacecompile.record import Record
from spacecompile.runtime.answer import Answer


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """One frame's answer, whoever gave it.

    Attributes:
        class_probs_L: In the order of the spec's classes.
        parts_HW: uint8, bit k is part k of `contract.PARTS`.
        box_xyxy: Half-open, in frame pixels; all zero without a box.
    """

    class_probs_L: NDArray[np.float32]
    parts_HW: NDArray[np.uint8]
    box_xyxy: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class AgreementTolerance:
    """When two pipelines do the same task.

    Loose on purpose: resize geometry differs between libraries (a user's resize, `align_corners` in smp's head), which
    moves edges by up to half a decoder pixel; on a small craft that alone costs a good part of the IoU. What it must
    catch is a wrong normalisation, a swapped channel or a broken export.

    Attributes:
        class_agreement_min: Least share of frames with the same top class.
        near_px: How far an edge may move, in frame pixels: of every part, and in the median of the box.
        parts_near_mean_min: Least mean share of set pixels that have one of the other answer's within `near_px`.
    """

    class_agreement_min: float = 0.9
    near_px: int = 1
    parts_near_mean_min: float = 0.95


def tolerance_for(spec: ModelSpec) -> AgreementTolerance:
    """The default tolerance, with edges free to move by half a pixel of a decoder at a quarter of the input's size."""
    ratios = (frame_px / input_px for frame_px, input_px in zip(spec.frame_size_px, spec.input_size_px, strict=True))
    return AgreementTolerance(near_px=math.ceil(2 * max(ratios)))


def compare(
    peer: Sequence[Answered], variant: Sequence[Answered], tolerance: AgreementTolerance | None = None
) -> Agreement:
    """How far a peer's answers are from a variant's.

    Args:
        peer: One answer per frame.
        variant: Variant's answers to the same frames in the same order.
        tolerance: The default one when None.
    """
    tolerance = tolerance or AgreementTolerance()
    pairs = list(zip(peer, variant, strict=True))
    same_class = [np.argmax(a.class_probs_L) == np.argmax(b.class_probs_L) for a, b in pairs]
    probs_max = max(float(np.abs(a.class_probs_L - b.class_probs_L).max()) for a, b in pairs)
    ious = np.asarray([parts_iou(a.parts_HW, b.parts_HW) for a, b in pairs])
    box_px = np.asarray([np.abs(a.box_xyxy.astype(np.float64) - b.box_xyxy).max() for a, b in pairs])
    near = np.asarray([parts_near(a.parts_HW, b.parts_HW, tolerance.near_px) for a, b in pairs])
    class_agreement, near_mean, box_median = float(np.mean(same_class)), float(near.mean()), float(np.median(box_px))
    same = (
        class_agreement >= tolerance.class_agreement_min
        and near_mean >= tolerance.parts_near_mean_min
        and box_median <= tolerance.near_px
    )
    return Agreement(
        frames=len(pairs),
        class_agreement=class_agreement,
        class_probs_max=probs_max,
        parts_iou_mean=float(ious.mean()),
        parts_iou_min=float(ious.min()),
        near_px=tolerance.near_px,
        parts_near_mean=near_mean,
        box_px_median=box_median,
        box_px_max=float(box_px.max()),
        same=same,
    )


def parts_near(parts_HW: NDArray[np.uint8], other_HW: NDArray[np.uint8], near_px: int) -> tuple[float, ...]:
    """Share of the set pixels of both masks that have a set pixel of the other mask within a distance.

    Args:
        parts_HW: Bit k is part k of `contract.PARTS`.
        other_HW: Pixels of the other mask, same size.
        near_px: Largest distance along rows and along columns.

    Returns:
        One share per part; 1 when the part is empty in both masks.
    """
    shares = []
    for part in range(len(PARTS)):
        ours_HW, theirs_HW = ((mask_HW >> part & 1).astype(np.bool_) for mask_HW in (parts_HW, other_HW))
        set_px = np.count_nonzero(ours_HW) + np.count_nonzero(theirs_HW)
        near = np.count_nonzero(ours_HW & _grown(theirs_HW, near_px))
        near += np.count_nonzero(theirs_HW & _grown(ours_HW, near_px))
        shares.append(near / set_px if set_px else 1.0)
    return tuple(shares)


def _grown(mask_HW: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask with so many pixels more on every side, corners included."""
    for _ in range(steps):
        padded_HW = np.pad(mask_HW, 1)
        rows_HW = padded_HW[:-2] | padded_HW[1:-1] | padded_HW[2:]
        mask_HW = rows_HW[:, :-2] | rows_HW[:, 1:-1] | rows_HW[:, 2:]
    return mask_HW


class Agreement(Record):
    """How far a peer's answers are from a variant's, on the very frames of the latency run.

    Attributes:
        frames: Compared.
        class_agreement: Share with the same top class.
        class_probs_max: Largest absolute difference of a class probability.
        parts_iou_mean, parts_iou_min: Over frames and parts; two empty masks have IoU 1.
        parts_near_mean: Mean share of set pixels that have one of the other answer's within `near_px` frame pixels.
        box_px_median, box_px_max: Largest edge difference per frame, in frame pixels.
        same: Whether they are close enough to be the same task; see `AgreementTolerance`.
    """

    frames: int
    class_agreement: float
    class_probs_max: float
    parts_iou_mean: float
    parts_iou_min: float
    near_px: int
    parts_near_mean: float
    box_px_median: float
    box_px_max: float
    same: bool


def answered_from_answer(answer: Answer) -> Answered:
    """A session's answer in the form that agreement and scores compare."""
    return Answered(class_probs_L=answer.class_probs, parts_HW=answer.parts_HW, box_xyxy=answer.box_xyxy)
