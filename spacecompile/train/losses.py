"""Dice and binary cross-entropy for the parts, cross-entropy for the class, perhaps a loss on the mask's box.

Layout legend: N frames, L classes, K parts, H W input rows and columns, h w decoder rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spacecompile.train.box_losses import mask_box_loss
from spacecompile.train.recipe import Recipe

DICE_SMOOTH_PX = 1.0
"""Added to both sides of the fraction: an absent part gives loss 0 for an empty answer instead of 0/0."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Scalars of one batch. `total` is weighted, the others are not."""

    total: Tensor
    dice: Tensor
    bce: Tensor
    cls: Tensor
    box: Tensor


def multi_task_losses(
    class_logits_NL: Tensor,
    part_logits_NKhw: Tensor,
    *,
    class_N: Tensor,
    coverage_NKHW: Tensor,
    recipe: Recipe,
    box_weight: float = 0.0,
) -> Losses:
    """Losses of one batch, in float32 whatever the network computed in.

    Args:
        class_logits_NL: Of the network.
        part_logits_NKhw: Of the network; upsampled here to the targets' size with half-pixel centres, as the sealed
            graph does on its way to the frame.
        class_N: True class indices.
        coverage_NKHW: True share of each pixel that each part covers, 0 to 1.
        recipe: Weights and label smoothing.
        box_weight: Of the loss on the mask's box, at this moment of the run; at 0 it is not computed.
    """
    size_px = (coverage_NKHW.shape[2], coverage_NKHW.shape[3])
    logits_NKHW = functional.interpolate(part_logits_NKhw.float(), size_px, mode="bilinear", align_corners=False)
    dice = dice_loss(logits_NKHW.sigmoid(), coverage_NKHW)
    bce = functional.binary_cross_entropy_with_logits(logits_NKHW, coverage_NKHW)
    cls = functional.cross_entropy(class_logits_NL.float(), class_N, label_smoothing=recipe.label_smoothing)
    box = mask_box_loss(logits_NKHW, coverage_NKHW) if box_weight else torch.zeros_like(dice)
    total = recipe.dice_weight * dice + recipe.bce_weight * bce + recipe.class_weight * cls + box_weight * box
    return Losses(total=total, dice=dice, bce=bce, cls=cls, box=box)


def dice_loss(probs_NKHW: Tensor, coverage_NKHW: Tensor) -> Tensor:
    """1 - Dice per frame and part, averaged: a small craft weighs as much as a large one, as in the score."""
    common_NK = (probs_NKHW * coverage_NKHW).sum((2, 3))
    both_NK = probs_NKHW.sum((2, 3)) + coverage_NKHW.sum((2, 3))
    return (1 - (2 * common_NK + DICE_SMOOTH_PX) / (both_NK + DICE_SMOOTH_PX)).mean()
