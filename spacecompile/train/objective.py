"""From one batch to its losses: augmentation, forward pass, every term. What a new loss needs is added here.

Layout legend: N frames, L classes, K parts, H W input rows and columns, h w decoder rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from spacecompile.contract import ModelSpec
from spacecompile.network.preprocess import normalised
from spacecompile.train.augment import SETTINGS, augmented_with_boxes
from spacecompile.train.device import DevicePlan
from spacecompile.train.frames.dataset import Batch
from spacecompile.train.losses import BoxTargets, Losses, multi_task_losses
from spacecompile.train.recipe import Recipe
from spacecompile.train.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a batch is judged by.

    Attributes:
        spec, recipe: Spec and recipe of the run.
        plan: Device and precision.
        forward: From normalised input to class and part logits, with gradients; see `fused.TrainingForward`.
        teacher: To imitate, if there is one.
    """

    spec: ModelSpec
    recipe: Recipe
    plan: DevicePlan
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    teacher: Teacher | None = None


def batch_losses(objective: Objective, batch: Batch, generator: torch.Generator, *, box_weight: float = 0.0) -> Losses:
    """Augment a batch, run the network over it and judge its answers.

    Args:
        objective: How to.
        batch: Batch of frames at input size, on any device.
        generator: Random generator of the augmentation.
        box_weight: Weight of the loss on the box that the parts' logits make, at this moment of the run.
    """
    spec, recipe, plan = objective.spec, objective.recipe, objective.plan
    pixels_NCHW, boxes_N4 = batch.pixels_NCHW.to(plan.device).float(), batch.boxes_N4.to(plan.device)
    if recipe.augment != "none":
        pixels_NCHW, boxes_N4 = augmented_with_boxes(pixels_NCHW, boxes_N4, SETTINGS[recipe.augment], generator)
    input_NCHW = normalised(pixels_NCHW[:, :3], spec.mean, spec.std)
    with plan.autocast():
        class_logits_NL, part_logits_NKhw = objective.forward(input_NCHW.contiguous(memory_format=torch.channels_last))
    return multi_task_losses(
        class_logits_NL,
        part_logits_NKhw,
        class_N=batch.class_N.to(plan.device),
        coverage_NKHW=pixels_NCHW[:, 3:] / 255,
        recipe=recipe,
        box=BoxTargets(weight=box_weight, labelled_N4=boxes_N4) if box_weight else None,
        has_parts_N=batch.has_parts_N,
        soft=objective.teacher.targets(pixels_NCHW[:, :3]) if objective.teacher else None,
    )
