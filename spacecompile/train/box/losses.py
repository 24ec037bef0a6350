"""Losses on boxes: for the box head, and through the mask for the whole network.

Layout legend: N frames, K parts, H W input rows and columns, I rows or columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

_EXPONENT_MAX = 30.0
_LEAST_AREA = 1e-7

LEAST_SIDE_PX = 1.0
"""Of a labelled box that teaches anything: a covered pixel's."""


def box_losses(boxes_N4: Tensor, true_N4: Tensor) -> Tensor:
    """1 - GIoU plus the mean distance of the sides as a share of the true box, of each frame [N].

    Boxes that do not meet still have a gradient.

    Args:
        boxes_N4: Boxes xyxy in any unit, the first corner not behind the second.
        true_N4: Labelled boxes in the same unit; none empty.
    """
    size_N2 = (true_N4[:, 2:] - true_N4[:, :2]).clamp(min=_LEAST_AREA)
    distance_N = ((boxes_N4 - true_N4).abs() / size_N2.repeat(1, 2)).mean(dim=1)
    overlap_N: Tensor = generalized_box_iou_loss(boxes_N4, true_N4, eps=_LEAST_AREA)
    return overlap_N + distance_N


def soft_box(logits_NKHW: Tensor) -> Tensor:
    """Box of part logits whose sides follow every logit that could move them [N, 4], xyxy in pixels.

    A column counts with probability p, the sigmoid of its largest logit; the left side is where the first is expected
    that does, x1 = sum_k prod_{j<=k} (1 - p_j), and the others likewise from their own ends.
    """
    strongest_NHW = logits_NKHW.amax(dim=1)
    left_N, right_N = _soft_ends(strongest_NHW.amax(dim=1))
    top_N, bottom_N = _soft_ends(strongest_NHW.amax(dim=2))
    return torch.stack([left_N, top_N, right_N, bottom_N], dim=1)


def _soft_ends(logits_NI: Tensor) -> tuple[Tensor, Tensor]:
    # The product of 1 - p as a sum of softplus: a product of small numbers would lose its gradient.
    weights_NI = torch.nn.functional.softplus(logits_NI.clamp(max=_EXPONENT_MAX))
    first_N = torch.exp(-weights_NI.cumsum(dim=1)).sum(dim=1)
    behind_N = torch.exp(-weights_NI.flip(1).cumsum(dim=1)).sum(dim=1)
    return first_N, logits_NI.shape[1] - behind_N


def mask_box_loss(
    logits_NKHW: Tensor,
    coverage_NKHW: Tensor,
    labelled_N4: Tensor | None = None,
    has_parts_N: Tensor | None = None,
) -> Tensor:
    """Loss of the boxes that part logits make, against the true ones; averaged over frames, 0 where none shows a craft.

    All frames count, as in the other losses: processes whose shares show different numbers of crafts then weigh each
    craft as one process would.

    The ends of a soft box feel the few rows and columns around them. Where no mask teaches the others, their projection
    is compared with the box as well.

    Args:
        logits_NKHW: At the coverage's size.
        coverage_NKHW: Labelled coverage of each part, see `true_box`.
        labelled_N4: Labelled boxes, see `true_box`.
        has_parts_N: Whether the parts of a frame are labelled, see `true_box`.
    """
    true_N4, is_there_N = true_box(coverage_NKHW, labelled_N4, has_parts_N)
    boxes_N4 = soft_box(logits_NKHW)[is_there_N]
    true_N4 = true_N4[is_there_N].to(boxes_N4.dtype)
    projection_N = boxes_N4.new_zeros(len(boxes_N4))
    if has_parts_N is not None and not bool(has_parts_N.all()):
        is_alone_N = ~has_parts_N.to(is_there_N.device).expand_as(is_there_N)[is_there_N]
        projection_N = projection_loss(logits_NKHW[is_there_N], true_N4) * is_alone_N
    # A mask that is empty so far has its ends crossed; GIoU wants them in order, and L1 pulls them apart.
    low_N2, high_N2 = boxes_N4[:, :2], torch.maximum(boxes_N4[:, :2], boxes_N4[:, 2:])
    losses_N = box_losses(torch.cat([low_N2, high_N2], dim=1), true_N4) + _crossing(boxes_N4, true_N4) + projection_N
    return losses_N.sum() / len(is_there_N)


def projection_loss(logits_NKHW: Tensor, true_N4: Tensor) -> Tensor:
    """1 - Dice between the largest probability of every row and column and their share of the box [N].

    Every row and column of a box touches the craft, and none outside does (Tian et al., BoxInst, CVPR 2021).

    Args:
        logits_NKHW: Logits of the parts.
        true_N4: xyxy in pixels of the logits.
    """
    strongest_NHW = logits_NKHW.amax(dim=1)
    losses = []
    for axis, low, high in ((1, 0, 2), (2, 1, 3)):
        probs_NI = strongest_NHW.amax(dim=axis).sigmoid()
        index_I = torch.arange(probs_NI.shape[1], device=probs_NI.device)
        inside_NI = torch.minimum(index_I + 1, true_N4[:, high, None]) - torch.maximum(index_I, true_N4[:, low, None])
        inside_NI = inside_NI.clamp(0, 1)
        both_N = probs_NI.square().sum(dim=1) + inside_NI.square().sum(dim=1)
        losses.append(1 - 2 * (probs_NI * inside_NI).sum(dim=1) / (both_N + _LEAST_AREA))
    return torch.stack(losses).mean(dim=0)


def _crossing(boxes_N4: Tensor, true_N4: Tensor) -> Tensor:
    """How far ends have crossed, as a share of the true box [N]: what the clamp above hides from the other losses."""
    size_N2 = (true_N4[:, 2:] - true_N4[:, :2]).clamp(min=_LEAST_AREA)
    return ((boxes_N4[:, :2] - boxes_N4[:, 2:]).clamp(min=0) / size_N2).mean(dim=1)


def true_box(
    coverage_NKHW: Tensor, labelled_N4: Tensor | None = None, has_parts_N: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The box to learn of each frame: that of its parts, or the labelled one where parts are not labelled.

    Args:
        coverage_NKHW: True share of each pixel that each part covers, 0 to 1.
        labelled_N4: Labelled boxes, half-open xyxy in pixels of the coverage.
        has_parts_N: Whether a frame's parts are labelled; without it, or without labelled boxes, all are.

    Returns:
        xyxy [N, 4] in pixels, and whether there is one to learn [N].
    """
    covered_N4, is_covered_N = covered_box(coverage_NKHW)
    if labelled_N4 is None or has_parts_N is None:
        return covered_N4, is_covered_N
    labelled_N4, has_parts_N = (entry.to(coverage_NKHW.device) for entry in (labelled_N4, has_parts_N))
    # A sliver at the frame's edge, where augmentation moved the craft out, has sides without a scale to measure by.
    is_labelled_N = (labelled_N4[:, 2:] - labelled_N4[:, :2] >= LEAST_SIDE_PX).all(dim=1)
    box_N4 = torch.where(has_parts_N[..., None], covered_N4, labelled_N4.to(covered_N4.dtype))
    return box_N4, torch.where(has_parts_N, is_covered_N, is_labelled_N)


def covered_box(coverage_NKHW: Tensor) -> tuple[Tensor, Tensor]:
    """The box of the pixels that are covered by half or more.

    Returns:
        xyxy [N, 4] in pixels, and whether there is any such pixel [N].
    """
    is_craft_NHW = coverage_NKHW.amax(dim=1) >= 0.5
    ends = []
    for axis in (1, 2):
        hit_NI = is_craft_NHW.any(dim=axis)
        index_I = torch.arange(hit_NI.shape[1], device=hit_NI.device)
        first_N = torch.where(hit_NI, index_I, hit_NI.shape[1]).amin(dim=1)
        ends.append((first_N, torch.where(hit_NI, index_I + 1, 0).amax(dim=1)))
    (left_N, right_N), (top_N, bottom_N) = ends
    box_N4 = torch.stack([left_N, top_N, right_N, bottom_N], dim=1).to(coverage_NKHW.dtype)
    return box_N4, is_craft_NHW.flatten(1).any(dim=1)


def warmed_up(weight: float, run_share: float, *, start: float = 0.3, full: float = 0.5) -> float:
    """Weight of the box loss: nothing before the masks mean something, then a ramp.

    Args:
        weight: At the end of the ramp.
        run_share: Part of the run that is done, 0 to 1.
        start: Where the ramp begins.
        full: Where it ends.
    """
    return weight * min(1.0, max(0.0, (run_share - start) / (full - start)))
