"""Test-time augmentation inside the graph: the eight D4 views of one square input, and their merging.

Calibration asks for the same views.

A view is a picture mirrored up-down, left-right, both or neither, and then transposed or not. Every one of the eight
symmetries of the square is written so exactly once.

Layout legend: N views, C channels, S input rows or columns (square), K parts, h w decoder rows and columns, L classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spacecompile.contract import Tta

_MIRRORED_AXES: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
# Sigmoid of 30 differs from 1 by 1e-13; beyond it exp underflows towards log(0).
_LOGIT_MAX = 30.0


def d4_views(input_1CSS: Tensor) -> Tensor:
    """The eight views as one batch [8, C, S, S], the picture itself first."""
    mirrored_4CSS = torch.cat([torch.flip(input_1CSS, axes) if axes else input_1CSS for axes in _MIRRORED_AXES])
    return torch.cat([mirrored_4CSS, mirrored_4CSS.transpose(2, 3)])


def undone(part_logits_NKhw: Tensor) -> Tensor:
    """Part logits of `d4_views` turned back to the picture's own pose."""
    straight_4Khw, transposed_4Kwh = part_logits_NKhw.chunk(2)
    num_mirrored = len(_MIRRORED_AXES)
    posed = [*straight_4Khw.chunk(num_mirrored), *transposed_4Kwh.transpose(2, 3).chunk(num_mirrored)]
    axes_of_views = _MIRRORED_AXES * 2
    return torch.cat(
        [torch.flip(view, axes) if axes else view for view, axes in zip(posed, axes_of_views, strict=True)]
    )


def undone_sides(sides_N4: Tensor) -> Tensor:
    """What each view says of left, top, right and bottom, turned back to the picture's own pose."""
    left, top, right, bottom = range(4)
    orders = []
    for is_transposed in (False, True):
        for axes in _MIRRORED_AXES:
            order = [left, bottom, right, top] if 2 in axes else [left, top, right, bottom]
            if 3 in axes:
                order = [order[right], order[top], order[left], order[bottom]]
            # Left swaps with top, right with bottom.
            orders.append([side ^ 1 for side in order] if is_transposed else order)
    return torch.gather(sides_N4, 1, torch.tensor(orders))


def merged_class_probs(class_logits_NL: Tensor, tta: Tta) -> Tensor:
    """One probability per class [L]: mean over the views, or median scaled to sum 1."""
    class_probs_NL = torch.softmax(class_logits_NL, dim=1)
    if tta == "d4-median":
        median_1L = median(class_probs_NL)
        return (median_1L / median_1L.sum(dim=1, keepdim=True))[0]
    return class_probs_NL.mean(dim=0)


def merged_part_logits(part_logits_NKhw: Tensor, tta: Tta, *, offset: float = 0.0) -> Tensor:
    """One logit per part and pixel [1, K, h, w].

    `d4` gives the logit of the mean probability, which is what averaging the views' predictions means in the
    literature. It is computed as log(mean sigmoid(x)) - log(mean sigmoid(-x)): the textbook log(p / (1 - p)) loses
    all digits where p is near 1. `d4-median` is a vote: the median logit is the logit of the median probability, up
    to the mean of the two middle ones, and one bad view can't move it far.

    Args:
        part_logits_NKhw: Part logits of all views, in the picture's own pose.
        tta: Augmentation, which says how to merge.
        offset: Number that makes given logits true ones, which a mean of probabilities needs; the result is shifted
            back.
    """
    if tta == "d4-median":
        return median(part_logits_NKhw)
    true_NKhw = part_logits_NKhw + offset if offset else part_logits_NKhw
    bounded_NKhw = true_NKhw.clamp(-_LOGIT_MAX, _LOGIT_MAX)
    # Not torch.sigmoid: ONNX Runtime gives exactly 0 below about -18, and the logarithm of 0 makes the upsampled
    # logits NaN.
    set_1Khw = (1 / (1 + torch.exp(-bounded_NKhw))).mean(dim=0, keepdim=True)
    unset_1Khw = (1 / (1 + torch.exp(bounded_NKhw))).mean(dim=0, keepdim=True)
    merged_1Khw = torch.log(set_1Khw) - torch.log(unset_1Khw)
    return merged_1Khw - offset if offset else merged_1Khw


def view_disagreement(part_logits_NKhw: Tensor, threshold_logits_1K11: Tensor) -> Tensor:
    """Share of decoder pixels whose views do not all agree after thresholding, for any part; a scalar."""
    set_NKhw = (part_logits_NKhw > threshold_logits_1K11).to(part_logits_NKhw.dtype)
    split_Khw = set_NKhw.amax(dim=0) - set_NKhw.amin(dim=0)
    return split_Khw.amax(dim=0).mean()


def median(values_N: Tensor) -> Tensor:
    """Mean of the two middle values along the views, of an even number; the first axis is kept."""
    num_views = values_N.shape[0]
    # Descending order: the upper half and one more hold both middle values.
    upper = torch.topk(values_N, num_views // 2 + 1, dim=0).values
    return upper[-2:].mean(dim=0, keepdim=True)
