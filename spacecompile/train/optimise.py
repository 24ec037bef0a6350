"""Optimizer, learning-rate schedule and averaged weights."""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train.recipe import Recipe


def optimizer_of(network: MultiTaskNetwork, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with four groups: encoder and rest, each with and without weight decay.

    Norm scales and biases (one axis) are not decayed: pulling them to zero regularises nothing and slows training.
    """
    groups = []
    for is_encoder in (True, False):
        for is_decayed in (True, False):
            parameters = [
                parameter
                for name, parameter in network.named_parameters()
                if name.startswith("encoder.") == is_encoder and (parameter.ndim > 1) == is_decayed
            ]
            scale = recipe.encoder_lr_scale if is_encoder else 1.0
            decay = recipe.weight_decay if is_decayed else 0.0
            groups.append({"params": parameters, "lr": recipe.lr * scale, "lr_scale": scale, "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True)


def lr_factor(*, step: int, warmup_steps: float, progress: float) -> float:
    """Share of the peak learning rate: a linear ramp times half a cosine.

    Args:
        step: Steps done so far, over the whole run.
        warmup_steps: Length of the ramp.
        progress: 0 at the start of the run, 1 at its end; of the steps, or of the clock under a time limit.
    """
    ramp = min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0
    return ramp * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_lr(optimizer: torch.optim.Optimizer, recipe: Recipe, factor: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * group["lr_scale"] * factor


class AveragedWeights:
    """Exponential moving average of a network's weights and running statistics.

    The decay grows with the steps up to its final value, so that the random start is soon forgotten.
    """

    def __init__(self, network: MultiTaskNetwork, decay: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, steps_done: int) -> None:
        """Move towards the network's current weights.

        Args:
            network: Network that is trained.
            steps_done: Optimizer steps so far, this one included.
        """
        decay = min(self.decay, (1 + steps_done) / (10 + steps_done))
        averaged, current = _tensors(self.network), _tensors(network)
        floating = [index for index, tensor in enumerate(averaged) if tensor.is_floating_point()]
        torch._foreach_lerp_([averaged[index] for index in floating], [current[index] for index in floating], 1 - decay)
        for target, source in zip(averaged, current, strict=True):
            if not target.is_floating_point():
                target.copy_(source)


def _tensors(network: nn.Module) -> list[Tensor]:
    return list(network.state_dict().values())
