"""Calibration of the box rule: threshold, support, softness, and how far each side grows.

A box from mask pixels is biased: a thin boom or the blurred edge of a coarse mask falls below the mask's threshold, so
the box ends too early, and labels may be looser than the mask. Both are measured on training frames and undone.
Which rule is best is decided by cross-validation, so that one with more numbers does not win by having them.

Layout legend: N frames, x y frame columns and rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from spacecompile.box_rule import BoxRule
from spacecompile.metrics import IOU_THRESHOLDS, box_iou, detection_score
from spacecompile.train.box.profile import (
    OUTWARDS_XYXY,
    BoxProfile,
    box_from_profile,
    grown_box,
    median_box,
    tight_box,
)

THRESHOLDS = (0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15)
SUPPORTS_PX = (2, 3, 4, 6, 8)
SOFTNESSES = (0.1, 0.25, 0.5)
FOLDS = 4

Margins = Literal["none", "constant", "affine"]
"""Of each side: no growth; so many pixels; so many pixels and a share of the box's size."""

_REWEIGHTINGS = 30


@dataclass(frozen=True, kw_only=True)
class BoxCase:
    """One frame to calibrate on.

    Attributes:
        profile: Profile of the network's answer.
        true_box_xyxy: Half-open, in pixels of the same frame.
        class_index: True class; frames of one class follow each other along trajectories, see `folds_of`.
    """

    profile: BoxProfile
    true_box_xyxy: tuple[float, float, float, float]
    class_index: int = 0


@dataclass(frozen=True, kw_only=True)
class CalibratedRule:
    """A rule, and what speaks for it.

    Attributes:
        rule: With margins fitted on all cases.
        ious_N: IoU of each case, with margins that were fitted on others.
    """

    rule: BoxRule
    ious_N: NDArray[np.float64]

    @property
    def s_det_folds(self) -> float:
        """`s_det` of these boxes; 0 without a case."""
        return detection_score(self.ious_N) if self.ious_N.size else 0.0


def detection_score_of(rule: BoxRule, cases: Sequence[BoxCase], frame_size_px: tuple[int, int]) -> float:
    """`s_det` of a rule."""
    return detection_score(ious_of(rule, cases, frame_size_px))


def ious_of(rule: BoxRule, cases: Sequence[BoxCase], frame_size_px: tuple[int, int]) -> NDArray[np.float64]:
    """IoU of the rule's box of every case."""
    boxes = [box_from_profile(case.profile, rule, frame_size_px) for case in cases]
    return np.array([box_iou(box, case.true_box_xyxy) for box, case in zip(boxes, cases, strict=True)])


def simplest_of_equals(ious: Sequence[NDArray[np.float64]]) -> int:
    """Which estimator to keep: the first that the best one does not beat by more than chance.

    With some dozens of frames the best of many is best by luck. An estimator counts as equal where its frames score
    less than the best one's by no more than one standard error of the paired difference (the one-standard-error rule,
    Breiman et al., Classification and Regression Trees, 1984).

    Args:
        ious: IoUs of the same frames by each estimator, the simplest first.
    """
    scores = [(np.asarray(ious_N)[:, None] >= np.asarray(IOU_THRESHOLDS)).mean(axis=1) for ious_N in ious]
    best = max(range(len(scores)), key=lambda index: (scores[index].mean(), -index))
    for index, shares_N in enumerate(scores):
        lacks_N = scores[best] - shares_N
        if lacks_N.mean() <= lacks_N.std() / np.sqrt(lacks_N.size):
            return index
    return best


def hard_rules() -> tuple[BoxRule, ...]:
    """The outermost pixels, at every threshold."""
    return tuple(BoxRule(threshold=threshold) for threshold in THRESHOLDS)


def supported_rules() -> tuple[BoxRule, ...]:
    """The outermost rows and columns with several pixels."""
    return tuple(BoxRule(threshold=threshold, support_px=px) for px, threshold in product(SUPPORTS_PX, THRESHOLDS))


def soft_rules() -> tuple[BoxRule, ...]:
    """Soft edges."""
    return tuple(BoxRule(threshold=threshold, softness=soft) for soft, threshold in product(SOFTNESSES, THRESHOLDS))


def trajectory_folds(groups: Sequence[Hashable], folds: int = FOLDS) -> NDArray[np.int64]:
    """Fold of each frame, such that neighbours stay together.

    Frames of one class follow each other along trajectories and resemble each other, so that each class is cut into as
    many runs as there are folds, instead of dealt out: a frame is then never judged by what its neighbours taught.

    Args:
        groups: Class of each frame, in the order of the data set.
        folds: How many.
    """
    totals = {group: groups.count(group) for group in set(groups)}
    seen = dict.fromkeys(totals, 0)
    fold_N = np.zeros(len(groups), np.int64)
    for index, group in enumerate(groups):
        fold_N[index] = seen[group] * folds // totals[group]
        seen[group] += 1
    return fold_N


def folds_of(cases: Sequence[BoxCase]) -> NDArray[np.int64]:
    """Fold of each case; broken frames gave none, so that a list of frames would not fit."""
    return trajectory_folds([case.class_index for case in cases])


def calibrated_box_rule(cases: Sequence[BoxCase], *, frame_size_px: tuple[int, int], start: BoxRule) -> BoxRule:
    """The start, outermost pixels or soft edges, the latter two with threshold and margins that fit best.

    The simplest of them that no other beats by more than chance.

    Arguments as for `calibrated`.
    """
    if not cases:
        return start
    families = ((), hard_rules(), soft_rules())
    judged = [calibrated(cases, frame_size_px=frame_size_px, start=start, rules=rules) for rules in families]
    return judged[simplest_of_equals([each.ious_N for each in judged])].rule


def calibrated(
    cases: Sequence[BoxCase],
    *,
    frame_size_px: tuple[int, int],
    start: BoxRule,
    rules: Sequence[BoxRule],
    fold_N: NDArray[np.int64] | None = None,
) -> CalibratedRule:
    """Find the rule and the margins that give the best `s_det` on frames that the margins were not fitted on.

    Args:
        cases: Cases of training frames; none from the validation split.
        frame_size_px: (height, width) of the spec's frame, in whose pixels margins are given.
        start: Kept unless another rule is better on the cases.
        rules: To try, each with every kind of margins.
        fold_N: Fold of each case; those of `folds_of` if not given.
    """
    if not cases:
        return CalibratedRule(rule=start, ious_N=np.zeros(0))
    fold_N = folds_of(cases) if fold_N is None else fold_N
    best = CalibratedRule(rule=start, ious_N=ious_of(start, cases, frame_size_px))
    for rule in rules:
        fit = _Fit(rule, cases, frame_size_px)
        for margins in get_args(Margins):
            ious_N = fit.ious_over_folds(margins, fold_N)
            if detection_score(ious_N) > best.s_det_folds:
                everything_N = np.ones(len(cases), bool)
                best = CalibratedRule(rule=fit.rule_with(margins, everything_N), ious_N=ious_N)
    return best


def refitted(
    rule: BoxRule, cases: Sequence[BoxCase], frame_size_px: tuple[int, int], is_used_N: NDArray[np.bool_]
) -> BoxRule:
    """The same rule with margins of the same kind, fitted on some of the cases only."""
    bare = replace(rule, margins_px=(0.0,) * 4, margin_shares=(0.0,) * 4)
    margins: Margins = "affine" if any(rule.margin_shares) else "constant" if any(rule.margins_px) else "none"
    return _Fit(bare, cases, frame_size_px).rule_with(margins, is_used_N)


class _Fit:
    """A rule's bare boxes of all cases, in pixels of the spec's frame, and what they lack.

    Where the rule takes the median of the boxes of views, there are as many boxes per case.
    """

    def __init__(self, rule: BoxRule, cases: Sequence[BoxCase], frame_size_px: tuple[int, int]) -> None:
        self.rule, self.frame_size_px = rule, frame_size_px
        takes_views = rule.views == "median" and all(case.profile.views for case in cases)
        bare = [list(_bare_boxes(case.profile, rule, frame_size_px, views=takes_views)) for case in cases]
        self.bare_NV4 = np.array(bare)
        self.true_N4 = np.array([_in_spec(case.true_box_xyxy, case.profile, frame_size_px) for case in cases])
        self.is_found_NV: NDArray[np.bool_] = np.any(self.bare_NV4, axis=2)
        middle_N4 = median_box(self.bare_NV4)
        limits_xyxy = np.array([frame_size_px[1], frame_size_px[0]] * 2, np.float64)
        # Sides of the truth that lie on the frame's edge say nothing: clipping puts them right whatever the margin.
        is_inside_N4 = (self.true_N4 > 0) & (self.true_N4 < limits_xyxy)
        extents_N4 = np.tile(self.true_N4[:, 2:] - self.true_N4[:, :2], 2)
        # The same error costs a small box more IoU.
        self.weights_N4 = is_inside_N4 * middle_N4.any(axis=1, keepdims=True) / np.maximum(extents_N4, 1)
        self.lacks_N4 = (self.true_N4 - middle_N4) * OUTWARDS_XYXY
        self.extents_N4 = np.tile(middle_N4[:, 2:] - middle_N4[:, :2], 2)

    def ious_over_folds(self, margins: Margins, fold_N: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of every case, each fold judged with margins of the others; of all where there is one fold only."""
        ious_N: NDArray[np.float64] = np.zeros(len(fold_N))
        folds = np.unique(fold_N)
        for fold in folds:
            is_judged_N: NDArray[np.bool_] = np.equal(fold_N, fold)
            rule = self.rule_with(margins, ~is_judged_N if len(folds) > 1 else is_judged_N)
            ious_N[is_judged_N] = self._ious(rule)[is_judged_N]
        return ious_N

    def rule_with(self, margins: Margins, is_used_N: NDArray[np.bool_]) -> BoxRule:
        """The rule with margins that fit some of the cases."""
        if margins == "none":
            return self.rule
        lines = [self._line(margins, side, is_used_N) for side in range(4)]
        margins_px, shares = zip(*lines, strict=True)
        return replace(self.rule, margins_px=margins_px, margin_shares=shares)

    def _line(self, margins: Margins, side: int, is_used_N: NDArray[np.bool_]) -> tuple[float, float]:
        """Constant and share of one side: weighted least absolute error, which few bad boxes can't move."""
        is_used_N = is_used_N & (self.weights_N4[:, side] > 0)
        lacks_N, weights_N = self.lacks_N4[is_used_N, side], self.weights_N4[is_used_N, side]
        constant = _weighted_median(lacks_N, weights_N)
        extents_N = self.extents_N4[is_used_N, side]
        if margins == "constant" or np.unique(extents_N).size < 3:
            return constant, 0.0
        terms_N2 = np.stack([np.ones_like(extents_N), extents_N], axis=1)
        line_2 = np.array([constant, 0.0])
        for _ in range(_REWEIGHTINGS):
            roots_N = np.sqrt(weights_N / np.maximum(np.abs(lacks_N - terms_N2 @ line_2), 1e-3))
            line_2 = np.linalg.lstsq(terms_N2 * roots_N[:, None], lacks_N * roots_N, rcond=None)[0]
        return float(line_2[0]), float(line_2[1])

    def _ious(self, rule: BoxRule) -> NDArray[np.float64]:
        margins_px, shares = np.asarray(rule.margins_px), np.asarray(rule.margin_shares)
        grown_NV4 = grown_box(self.bare_NV4, margins_px, shares, self.frame_size_px) * self.is_found_NV[..., None]
        return box_ious(median_box(grown_NV4), self.true_N4)


def _bare_boxes(
    profile: BoxProfile, rule: BoxRule, frame_size_px: tuple[int, int], *, views: bool
) -> Iterator[NDArray[np.float64]]:
    height_px, width_px = profile.size_px
    scaled = rule.scaled((width_px / frame_size_px[1], height_px / frame_size_px[0]))
    for view in profile.views if views else (profile,):
        yield _in_spec(tight_box(view, scaled), profile, frame_size_px)


def _in_spec(
    box_xyxy: Iterable[float] | NDArray[np.float64], profile: BoxProfile, frame_size_px: tuple[int, int]
) -> NDArray[np.float64]:
    height_px, width_px = profile.size_px
    return np.asarray(box_xyxy, np.float64) * ([frame_size_px[1] / width_px, frame_size_px[0] / height_px] * 2)


def box_ious(boxes_N4: NDArray[np.float64], true_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    """`metrics.box_iou` of many pairs at once."""
    common_N2 = np.minimum(boxes_N4[:, 2:], true_N4[:, 2:]) - np.maximum(boxes_N4[:, :2], true_N4[:, :2])
    common_N = np.maximum(common_N2, 0).prod(axis=1)
    areas_N, true_areas_N = (np.maximum(box[:, 2:] - box[:, :2], 0).prod(axis=1) for box in (boxes_N4, true_N4))
    is_box_N = (areas_N > 0) & (true_areas_N > 0)
    unions_N = np.where(is_box_N, areas_N + true_areas_N - common_N, 1.0)
    return np.where(is_box_N, common_N / unions_N, 0.0)


def _weighted_median(values_N: NDArray[np.float64], weights_N: NDArray[np.float64]) -> float:
    if not weights_N.sum() > 0:
        return 0.0
    order_N = np.argsort(values_N, kind="stable")
    reached_N = np.cumsum(weights_N[order_N])
    return float(values_N[order_N][np.searchsorted(reached_N, reached_N[-1] / 2)])
