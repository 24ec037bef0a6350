"""What variants and peers are compared by: class probabilities, part masks and a box of one frame.

Layout legend: H, W frame rows and columns; K parts; L classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.records import Agreement
from spacecompile.metrics import parts_iou


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
    moves edges by about a pixel. What it must catch is a wrong normalisation, a swapped channel or a broken export.

    Attributes:
        class_agreement_min: Least share of frames with the same top class.
        parts_iou_mean_min: Least mean IoU over frames and parts.
        box_share_median_max: Largest median edge difference, as a share of the frame's longer side.
    """

    class_agreement_min: float = 0.9
    parts_iou_mean_min: float = 0.9
    box_share_median_max: float = 0.01


def compare(
    peer: Sequence[Answered], variant: Sequence[Answered], tolerance: AgreementTolerance | None = None
) -> Agreement:
    """How far a peer's answers are from a variant's.

    Args:
        peer: One answer per frame.
        variant: Of the same frames in the same order.
        tolerance: The default one when None.
    """
    tolerance = tolerance or AgreementTolerance()
    pairs = list(zip(peer, variant, strict=True))
    same_class = [np.argmax(a.class_probs_L) == np.argmax(b.class_probs_L) for a, b in pairs]
    probs_max = max(float(np.abs(a.class_probs_L - b.class_probs_L).max()) for a, b in pairs)
    ious = np.asarray([parts_iou(a.parts_HW, b.parts_HW) for a, b in pairs])
    box_px = np.asarray([np.abs(a.box_xyxy.astype(np.float64) - b.box_xyxy).max() for a, b in pairs])
    class_agreement, iou_mean, box_median = float(np.mean(same_class)), float(ious.mean()), float(np.median(box_px))
    same = (
        class_agreement >= tolerance.class_agreement_min
        and iou_mean >= tolerance.parts_iou_mean_min
        and box_median <= tolerance.box_share_median_max * max(variant[0].parts_HW.shape)
    )
    return Agreement(
        frames=len(pairs),
        class_agreement=class_agreement,
        class_probs_max=probs_max,
        parts_iou_mean=iou_mean,
        parts_iou_min=float(ious.min()),
        box_px_median=box_median,
        box_px_max=float(box_px.max()),
        same=same,
    )
