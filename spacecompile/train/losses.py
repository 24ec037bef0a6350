"""The losses: Dice, binary cross-entropy and Lovasz on parts, cross-entropy on classes, the mask's box, a teacher.

Layout legend: N frames, L classes, K parts, H W input rows and columns, h w decoder rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from segmentation_models_pytorch.losses import LovaszLoss
from torch import Tensor
from torch.nn import functional

from spacecompile.train.box.losses import mask_box_loss
from spacecompile.train.frames.dataset import silenced
from spacecompile.train.recipe import Recipe

DICE_SMOOTH_PX = 1.0
"""Added to both sides of the fraction: an absent part gives loss 0 for an empty answer instead of 0/0."""

LOGIT_MAX = 30.0
"""Beyond it a float32 sigmoid is 0 or 1, and its entropy 0 times infinity."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Scalars of one batch.

    Attributes:
        total: Weighted sum, to be differentiated.
        terms: Each term by name, not weighted; a term without weight is not computed.
    """

    total: Tensor
    terms: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class SoftTargets:
    """What a teacher says about one batch.

    Attributes:
        class_probs_NL: Sum 1 per frame.
        part_logits_NKHW: At the size of the targets.
    """

    class_probs_NL: Tensor
    part_logits_NKHW: Tensor


@dataclass(frozen=True, kw_only=True)
class BoxTargets:
    """What the boxes of one batch are judged by.

    Attributes:
        weight: Weight of their loss.
        labelled_N4: Labelled boxes, half-open xyxy in pixels of the targets, on any device; they are learned where
            parts are not labelled.
    """

    weight: float
    labelled_N4: Tensor | None = None


def multi_task_losses(
    class_logits_NL: Tensor,
    part_logits_NKhw: Tensor,
    *,
    class_N: Tensor,
    coverage_NKHW: Tensor,
    recipe: Recipe,
    box: BoxTargets | None = None,
    has_parts_N: Tensor | None = None,
    soft: SoftTargets | None = None,
) -> Losses:
    """Losses of one batch, in float32 whatever the network computed in.

    Args:
        class_logits_NL: Class logits of the network.
        part_logits_NKhw: Part logits of the network; upsampled here to the targets' size with half-pixel centres, as
            the sealed graph does on its way to the frame.
        class_N: True class indices.
        coverage_NKHW: True share of each pixel that each part covers, 0 to 1.
        recipe: Weights and label smoothing.
        box: Weight of the loss on the mask's box, if there is one at this moment of the run.
        has_parts_N: Frames whose parts are labelled, on any device; the others are left out of every loss on parts.
        soft: Soft targets of a teacher, if there is one.
    """
    size_px = (coverage_NKHW.shape[2], coverage_NKHW.shape[3])
    class_logits_NL = class_logits_NL.float()
    # With two channels in the last place no kernel fills its vectors.
    part_logits_NKhw = part_logits_NKhw.float().contiguous(memory_format=torch.contiguous_format)
    logits_NKHW = functional.interpolate(part_logits_NKhw, size_px, mode="bilinear", align_corners=False)
    labelled_NKHW = logits_NKHW if has_parts_N is None else silenced(logits_NKHW, has_parts_N)
    terms = {
        "dice": dice_loss(labelled_NKHW.sigmoid(), coverage_NKHW),
        "bce": functional.binary_cross_entropy_with_logits(labelled_NKHW, coverage_NKHW),
        "cls": functional.cross_entropy(class_logits_NL, class_N, label_smoothing=recipe.label_smoothing),
    }
    weights = {"dice": recipe.dice_weight, "bce": recipe.bce_weight, "cls": recipe.class_weight}
    if recipe.lovasz_weight:
        terms["lovasz"], weights["lovasz"] = lovasz_loss(labelled_NKHW, coverage_NKHW), recipe.lovasz_weight
    if box:
        # Not the silenced logits: where parts are not labelled, nothing but the box reaches them.
        terms["box"] = mask_box_loss(logits_NKHW, coverage_NKHW, box.labelled_N4, has_parts_N)
        weights["box"] = box.weight
    if soft:
        terms["teacher"], weights["teacher"] = teacher_loss(class_logits_NL, logits_NKHW, soft), recipe.teacher_weight
    return Losses(total=weighted_sum(terms, weights), terms=terms)


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of the terms, each times its weight."""
    first, *others = (weights[name] * value for name, value in terms.items())
    return sum(others, first)


def dice_loss(probs_NKHW: Tensor, coverage_NKHW: Tensor) -> Tensor:
    """1 - Dice per frame and part, averaged: a small craft weighs as much as a large one, as in the score."""
    common_NK = (probs_NKHW * coverage_NKHW).sum((2, 3))
    both_NK = probs_NKHW.sum((2, 3)) + coverage_NKHW.sum((2, 3))
    return (1 - (2 * common_NK + DICE_SMOOTH_PX) / (both_NK + DICE_SMOOTH_PX)).mean()


def lovasz_loss(logits_NKHW: Tensor, coverage_NKHW: Tensor) -> Tensor:
    """Lovasz hinge per frame and part, averaged: a convex surrogate of 1 - IoU (Berman et al., CVPR 2018).

    It knows set and unset pixels only: a part has those that it covers by half or more.
    """
    masks = (coverage_NKHW.flatten(0, 1) >= 0.5).float()[:, None]
    loss: Tensor = LovaszLoss(mode="binary", per_image=True)(logits_NKHW.flatten(0, 1)[:, None], masks)
    return loss


def teacher_loss(class_logits_NL: Tensor, logits_NKHW: Tensor, soft: SoftTargets) -> Tensor:
    """How far the answers are from a teacher's: Kullback-Leibler divergence of the classes plus that of the pixels.

    Zero when both say the same, whatever that is; a cross-entropy would end at the teacher's own entropy.
    """
    classes = functional.kl_div(class_logits_NL.log_softmax(1), soft.class_probs_NL, reduction="batchmean")
    bounded_NKHW = soft.part_logits_NKHW.clamp(-LOGIT_MAX, LOGIT_MAX)
    probs_NKHW = bounded_NKHW.sigmoid()
    cross = functional.binary_cross_entropy_with_logits(logits_NKHW, probs_NKHW)
    return classes + cross - functional.binary_cross_entropy_with_logits(bounded_NKHW, probs_NKHW)
