"""A step is taken when loss and gradient are finite, skipped when only the loss scale was too high, else refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spacecompile.errors import DivergedError
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.train import step
from spacecompile.train.device import plan_device
from spacecompile.train.frames.dataset import Batch
from spacecompile.train.fused_decoder import TrainingForward
from spacecompile.train.losses import Losses
from spacecompile.train.objective import Objective, batch_losses
from spacecompile.train.processes import Alone
from spacecompile.train.recipe import Recipe
from spacecompile.train.state import TrainingState, new_state

CPU = plan_device("cpu", amp=False)
RECIPE = Recipe(lr=1e-3, encoder_lr_scale=1.0, clip_norm=0.5, augment="none")


@pytest.fixture
def state(still_checkpoint: Path) -> TrainingState:
    made = new_state(load_checkpoint(still_checkpoint).network.train(), RECIPE, CPU)
    made.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=2.0**16)
    return made


def objective_of(state: TrainingState) -> Objective:
    return Objective(spec=state.network.spec, recipe=RECIPE, plan=CPU, forward=TrainingForward(state.network))


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 5, 64, 64), generator=generator, dtype=torch.uint8)
    return Batch(pixels_NCHW=pixels, class_N=torch.tensor([0, 1, 2, 3]), boxes_N4=torch.zeros(4, 4))


def taken(state: TrainingState) -> dict[str, float]:
    return step.train_step(state, objective_of(state), batch(), world=Alone(), generator=torch.Generator())


def weights_of(state: TrainingState) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in state.network.parameters()]


def test_a_step_moves_the_weights_by_a_clipped_gradient(state: TrainingState) -> None:
    before = weights_of(state)
    losses = taken(state)
    assert list(losses) == ["loss", "dice", "bce", "cls"]
    assert losses["loss"] == pytest.approx(losses["dice"] + losses["bce"] + losses["cls"], rel=1e-6)
    assert any(not torch.equal(old, new) for old, new in zip(before, weights_of(state), strict=True))
    norms = [parameter.grad.norm() for parameter in state.network.parameters() if parameter.grad is not None]
    assert torch.stack(norms).norm().item() == pytest.approx(RECIPE.clip_norm, rel=1e-3)


def test_a_loss_scale_that_is_too_high_is_lowered_and_one_that_never_fits_is_divergence(
    state: TrainingState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(*arguments: object, **options: object) -> Losses:
        losses = batch_losses(*arguments, **options)  # type: ignore[arg-type]
        return Losses(total=losses.total + (0 * losses.total).sqrt(), terms=losses.terms)

    monkeypatch.setattr(step, "batch_losses", overflowing)
    before = weights_of(state)
    taken(state)
    assert state.scaler.get_scale() == 2.0**15
    with pytest.raises(DivergedError, match="the gradient is not finite"):
        for _ in range(100):
            taken(state)
    assert state.scaler.get_scale() == step.SCALE_MIN
    assert all(torch.equal(old, new) for old, new in zip(before, weights_of(state), strict=True))


def test_the_term_that_is_no_number_is_named(state: TrainingState, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> Losses:
        losses = batch_losses(*arguments, **options)  # type: ignore[arg-type]
        bad = losses.terms["bce"] * float("nan")
        return Losses(total=losses.total + bad, terms={**losses.terms, "bce": bad})

    monkeypatch.setattr(step, "batch_losses", broken)
    with pytest.raises(DivergedError, match="bce is not finite"):
        taken(state)
