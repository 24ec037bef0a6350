"""One optimizer step, taken only when loss and gradient are finite."""

from __future__ import annotations

import math

import torch

from spacecompile.errors import DivergedError
from spacecompile.train.frames.dataset import Batch
from spacecompile.train.objective import Objective, batch_losses
from spacecompile.train.processes import World
from spacecompile.train.state import TrainingState

SCALE_MIN = 2.0**-10
"""float16 gradients that still overflow at this loss scale are no matter of range: the weights have diverged."""


def train_step(
    state: TrainingState,
    objective: Objective,
    batch: Batch,
    *,
    world: World,
    generator: torch.Generator,
    box_weight: float = 0.0,
) -> dict[str, float]:
    """One step of the optimizer on one process's share of the batch.

    Args:
        state: Moves on by one step.
        objective: How to judge.
        batch: This process's frames.
        world: Group of all processes; their gradients are averaged.
        generator: Random generator of the augmentation.
        box_weight: Weight of the loss on the mask's box, at this moment of the run.

    Returns:
        The losses over all processes' frames: `loss` first, then its terms.

    Raises:
        DivergedError: If the loss or its gradient is not finite; the weights are those before the step.
    """
    with world.shared_statistics(state.recipe.sync_batchnorm):
        losses = batch_losses(objective, batch, generator, box_weight=box_weight)
        state.optimizer.zero_grad(set_to_none=True)
        world.backward(state.scaler.scale(losses.total))
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), state.recipe.clip_norm)
    names = ("loss", *losses.terms)
    values = world.mean(torch.stack([losses.total.detach(), *(term.detach() for term in losses.terms.values()), norm]))
    *found, norm_value = values.tolist()
    named = dict(zip(names, found, strict=True))
    _require_finite({**named, "the gradient": norm_value}, state)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.averaged:
        state.averaged.update(state.network, state.steps_done + 1)
    return named


def require_finite_weights(state: TrainingState) -> None:
    """Refuse weights and statistics that no checkpoint should hold.

    Raises:
        DivergedError: If any is not finite.
    """
    tensors = state.evaluated.state_dict().items()
    bad = [name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise DivergedError(f"{bad[0]} is not finite")


def _require_finite(values: dict[str, float], state: TrainingState) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    # A loss scale that was too high gives infinite gradients; the scaler then skips the step and lowers itself.
    if bad == ["the gradient"] and state.scaler.is_enabled() and state.scaler.get_scale() > SCALE_MIN:
        return
    if bad:
        # A bad term is the cause of a bad sum and of a bad gradient.
        raise DivergedError(f"{next((name for name in bad if name != 'loss'), bad[0])} is not finite")
