"""How much of a box rule the peers follow, in a few lines and independent of the sealed graph's.

Layout legend: H, W frame rows and columns; K parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacecompile.box_rule import BoxRule
from spacecompile.contract import ModelSpec, Tta


def box_of_parts(
    probs_KHW: Any, parts_KHW: Any, spec: ModelSpec, tta: Tta, *, to_numpy: Callable[[Any], NDArray[np.bool_]]
) -> NDArray[np.float32]:
    """The box around part pixels, in whatever array library the peer computes in.

    Args:
        probs_KHW: Probabilities of the parts, an array of NumPy or a tensor of torch: both have the few methods used
            here.
        parts_KHW: Pixels above the parts' own thresholds.
        spec: Spec of the bundle.
        tta: Test-time augmentation of the peer.
        to_numpy: From its library, on its device.

    Returns:
        xyxy in frame pixels; all zero where nothing is found.
    """
    rule = spec.box_of(tta)
    shared = all(threshold == rule.threshold for threshold in spec.part_thresholds)
    any_HW = (parts_KHW if shared else probs_KHW > rule.threshold).any(0)
    rows, columns = (np.flatnonzero(to_numpy(_counting(any_HW, axis, rule.support_px))) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return np.zeros(4, np.float32)
    edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return with_margins(edges, rule, spec.frame_size_px)


def _counting(any_HW: Any, axis: int, support_px: int) -> Any:
    """Which rows (`axis` 1) or columns (0) have the pixels that the rule asks for."""
    return any_HW.any(axis) if support_px == 1 else any_HW.sum(axis) >= support_px


def with_margins(
    edges_xyxy: tuple[int, int, int, int], rule: BoxRule, frame_size_px: tuple[int, int]
) -> NDArray[np.float32]:
    """A box grown by a rule's margins and shares of its own size, and clipped to the frame.

    Args:
        edges_xyxy: Edges of the pixels, half-open.
        rule: With the margins.
        frame_size_px: (height, width).

    Returns:
        xyxy in frame pixels; where negative margins turn a box inside out it ends where it begins.
    """
    left, top, right, bottom = edges_xyxy
    size_xyxy = np.asarray((right - left, bottom - top, right - left, bottom - top), np.float32)
    growth_xyxy = np.asarray(rule.margins_px, np.float32) + np.asarray(rule.margin_shares, np.float32) * size_xyxy
    grown_xyxy = np.asarray(edges_xyxy, np.float32) + np.asarray((-1, -1, 1, 1), np.float32) * growth_xyxy
    height_px, width_px = frame_size_px
    limits: NDArray[np.float32] = np.asarray((width_px, height_px, width_px, height_px), np.float32)
    bounded_xyxy: NDArray[np.float32] = np.clip(grown_xyxy, np.float32(0), limits)
    bounded_xyxy[2:] = np.maximum(bounded_xyxy[:2], bounded_xyxy[2:])
    return bounded_xyxy


def left_out(spec: ModelSpec, tta: Tta) -> str:
    """What a peer does otherwise than the variants, in one sentence; empty where it does all of it.

    Args:
        spec: Spec of the bundle.
        tta: Test-time augmentation of the peer.
    """
    rule = spec.box_of(tta)
    missing = [
        words
        for words, used in (
            ("soft edges", rule.softness > 0),
            ("the box head's correction", rule.residual),
            ("the median of the views' boxes", tta != "none" and rule.views == "median"),
        )
        if used
    ]
    notes = [f"a plain box of the mask, without {' and '.join(missing)}"] if missing else []
    if spec.part_head == "shuffle":
        notes.append("smp's network with the bundle's own segmentation head, which smp lacks")
    if spec.class_pooling == "mask":
        notes.append("smp's network with the bundle's own classifier, which smp lacks")
    if spec.box_head is not None and not rule.residual:
        notes.append("the box head is not run")
    return "; ".join(notes)
