"""Calibration of the box rule: which threshold, and how far each side grows.

A box from mask pixels is biased: a thin boom or the blurred edge of a coarse mask falls below the mask's threshold, so
the box ends too early. The bias is measured on training frames and undone with four numbers.

Layout legend: N frames, x y frame columns and rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import BoxRule
from spacecompile.metrics import box_iou, detection_score
from spacecompile.train.evaluate import BoxProfile, FrameAnswer, box_from_profile

THRESHOLDS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)


@dataclass(frozen=True, kw_only=True)
class BoxCase:
    """One frame to calibrate on.

    Attributes:
        profile: Of the network's answer.
        true_box_xyxy: Half-open, in pixels of the same frame.
    """

    profile: BoxProfile
    true_box_xyxy: tuple[float, float, float, float]


def cases_from_answers(answers: Iterable[FrameAnswer]) -> list[BoxCase]:
    """Keep of each answer only what the calibration needs."""
    return [BoxCase(profile=answer.profile, true_box_xyxy=answer.truth.box_xyxy) for answer in answers]


def detection_score_of(rule: BoxRule, cases: Sequence[BoxCase], frame_size_px: tuple[int, int]) -> float:
    """`s_det` of a rule."""
    return detection_score(
        [box_iou(box_from_profile(case.profile, rule, frame_size_px), case.true_box_xyxy) for case in cases]
    )


def calibrated_box_rule(cases: Sequence[BoxCase], *, frame_size_px: tuple[int, int], start: BoxRule) -> BoxRule:
    """Find threshold and margins that give the best `s_det`.

    Args:
        cases: Of training frames; none from the validation split.
        frame_size_px: (height, width) of the spec's frame, in whose pixels margins are given.
        start: Kept unless another rule is better on the cases.
    """
    if not cases:
        return start
    best, best_score = start, detection_score_of(start, cases, frame_size_px)
    for threshold in THRESHOLDS:
        rule = BoxRule(threshold=threshold, margins_px=_margins_px(threshold, cases, frame_size_px))
        score = detection_score_of(rule, cases, frame_size_px)
        if score > best_score:
            best, best_score = rule, score
    return best


def _margins_px(
    threshold: float, cases: Sequence[BoxCase], frame_size_px: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Growth per side: the median of what lacks, in spec pixels.

    The median is weighted by 1 / extent, because the same error costs a small box more IoU. Sides of the truth that
    lie on the frame's edge are left out: clipping puts them right whatever the margin.
    """
    bare = BoxRule(threshold=threshold)
    lacks_N4, weights_N4 = [], []
    for case in cases:
        box_xyxy = box_from_profile(case.profile, bare, frame_size_px)
        if not box_xyxy.any():
            continue
        true_xyxy = np.asarray(case.true_box_xyxy, np.float64)
        size_xyxy = np.array([case.profile.columns_W.size, case.profile.rows_H.size] * 2, np.float64)
        scale_xyxy = np.array([frame_size_px[1], frame_size_px[0]] * 2) / size_xyxy
        extent_xyxy = np.tile(true_xyxy[2:] - true_xyxy[:2], 2)
        is_inside = (true_xyxy > 0) & (true_xyxy < size_xyxy)
        lacks_N4.append((true_xyxy - box_xyxy) * np.array([-1, -1, 1, 1]) * scale_xyxy)
        weights_N4.append(is_inside / np.maximum(extent_xyxy * scale_xyxy, 1))
    if not lacks_N4:
        return (0.0, 0.0, 0.0, 0.0)
    left, top, right, bottom = (
        _weighted_median(np.array(lacks_N4)[:, side], np.array(weights_N4)[:, side]) for side in range(4)
    )
    return left, top, right, bottom


def _weighted_median(values_N: NDArray[np.float64], weights_N: NDArray[np.float64]) -> float:
    if not weights_N.sum() > 0:
        return 0.0
    order_N = np.argsort(values_N, kind="stable")
    reached_N = np.cumsum(weights_N[order_N])
    return float(values_N[order_N][np.searchsorted(reached_N, reached_N[-1] / 2)])
