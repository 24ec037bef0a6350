"""Parts of a network that stay as they are while the rest is trained: early stages, batch norm's statistics."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from spacecompile.errors import UsageError, first_line_of
from spacecompile.network.encoder_index import BUILD_ERRORS
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.unused import reaching_parameters
from spacecompile.train.recipe import Recipe

BATCH_FOR_STATISTICS = 8
"""Frames per process below which batch norm's statistics are too noisy to train with: batches of four took S_det from
0.89 to 0.77 in five minutes, with frozen statistics it stayed at 0.87 (EfficientNet-Lite0, 512 px)."""


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
