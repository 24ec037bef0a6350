"""Parts of a network that stay as they are while the rest is trained: early stages, batch norm's statistics."""

from __future__ import annotations

import logging

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from spacecompile.errors import UsageError, first_line_of
from spacecompile.network.head import BUILD_ERRORS
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.unused import reaching_parameters
from spacecompile.train.recipe import Recipe

log = logging.getLogger(__name__)

BATCH_FOR_STATISTICS = 8
"""Frames per process below which batch norm's statistics are too noisy to train with: batches of four took S_det from
0.89 to 0.77 in five minutes, with frozen statistics it stayed at 0.87 (EfficientNet-Lite0, 512 px)."""


def refuse_frozen_noise(recipe: Recipe, *, has_weights: bool) -> None:
    """Refuse to keep random weights as they are.

    Args:
        recipe: Recipe of a new run.
        has_weights: Whether all that it freezes was trained before.

    Raises:
        UsageError: If it freezes something that was not.
    """
    if (recipe.freeze_stages or recipe.freeze_norm) and not has_weights:
        raise UsageError(
            "--freeze-stages and --freeze-norm keep what a network begins with, and here it begins with random "
            "weights. Name others with --encoder-weights or --init, or give --freeze-stages 0."
        )


def freeze(network: MultiTaskNetwork, recipe: Recipe) -> None:
    """Take the first stages of the encoder out of the training.

    Args:
        network: Network whose frozen parameters ask for no gradient any more, so that nothing is kept for one either.
        recipe: Recipe with the number of stages. Stage k ends with the features at a 2^k-th of the input's size; the
            stem belongs to the first.

    Raises:
        UsageError: If the encoder has fewer stages, or none that ends there.
    """
    if recipe.freeze_stages > network.spec.encoder_depth:
        raise UsageError(
            f"freeze_stages is {recipe.freeze_stages}, and encoder {network.spec.encoder} has "
            f"{network.spec.encoder_depth} stages. Lower --freeze-stages."
        )
    if not recipe.freeze_stages:
        return
    input_NCHW = torch.zeros(1, 3, *network.spec.input_size_px, device="meta")
    # The first of smp's features is the input itself.
    try:
        frozen = reaching_parameters(network.encoder, input_NCHW, slice(recipe.freeze_stages + 1))
    except BUILD_ERRORS as error:
        reason = first_line_of(error)
        raise UsageError(
            f"the stages of {network.spec.encoder} can't be told apart: {reason}. Leave out --freeze-stages."
        ) from error
    if not frozen:
        raise UsageError(
            f"encoder {network.spec.encoder} has nothing before its stage {recipe.freeze_stages + 1}. Give a larger "
            "--freeze-stages."
        )
    for name, parameter in network.encoder.named_parameters():
        parameter.requires_grad_(name not in frozen)


def train_mode(network: MultiTaskNetwork, recipe: Recipe) -> None:
    """Put a network into training mode, but for what is frozen: that computes as it will when it ships.

    Args:
        network: Network that `freeze` was called on.
        recipe: Recipe of the run.
    """
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        is_frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        if is_frozen or (recipe.freeze_norm and isinstance(module, _BatchNorm)):
            module.eval()


def trains_on_batch_statistics(network: nn.Module) -> bool:
    """Whether any layer is normalised by the statistics of the batch; asked of a network in training mode."""
    return any(isinstance(module, _BatchNorm) and module.training for module in network.modules())


def warn_of_small_statistics(network: MultiTaskNetwork, recipe: Recipe, frames_per_statistic: int) -> None:
    """Warn where batch norm would learn from a few frames at a time, which does harm.

    Args:
        network: Network that `freeze` was called on; left in training mode.
        recipe: Recipe of the run.
        frames_per_statistic: Number of frames that each batch statistic is of.
    """
    train_mode(network, recipe)
    if frames_per_statistic < BATCH_FOR_STATISTICS and trains_on_batch_statistics(network):
        log.warning(
            "batch norm takes its statistics from %d frames, fewer than %d, which can cost accuracy; keep those that "
            "it has with --freeze-norm, or take a larger --batch-size",
            *(frames_per_statistic, BATCH_FOR_STATISTICS),
        )
