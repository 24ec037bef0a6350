"""Losses: zero where the answer is right, equal weight for small and large craft, gradients everywhere."""

from __future__ import annotations

import pytest
import torch

from spacecompile.train.losses import dice_loss, multi_task_losses
from spacecompile.train.recipe import Recipe


@pytest.mark.parametrize(
    ("prob", "coverage", "loss"),
    [
        pytest.param(1.0, 1.0, 0.0, id="all covered and answered"),
        pytest.param(0.0, 0.0, 0.0, id="absent and not answered"),
        pytest.param(0.0, 1.0, 1.0, id="missed"),
        pytest.param(1.0, 0.0, 1.0, id="invented"),
    ],
)
def test_dice_at_its_ends(prob: float, coverage: float, loss: float) -> None:
    shape = (2, 2, 64, 64)
    assert dice_loss(torch.full(shape, prob), torch.full(shape, coverage)).item() == pytest.approx(loss, abs=1e-3)


def test_dice_weighs_a_small_craft_as_much_as_a_large_one() -> None:
    coverage_NKHW = torch.zeros(2, 1, 64, 64)
    coverage_NKHW[0, :, :60, :60] = 1
    coverage_NKHW[1, :, :10, :10] = 1
    misses = []
    for missed in range(2):
        probs_NKHW = coverage_NKHW.clone()
        probs_NKHW[missed] = 0
        misses.append(dice_loss(probs_NKHW, coverage_NKHW).item())
    assert misses[0] == pytest.approx(misses[1], abs=0.01)


def test_total_is_the_weighted_sum_and_all_logits_get_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    class_logits_NL = torch.randn(4, 10, generator=generator, requires_grad=True)
    part_logits_NKhw = torch.randn(4, 2, 16, 16, generator=generator, requires_grad=True)
    recipe = Recipe(dice_weight=0.5, bce_weight=2.0, class_weight=3.0)
    losses = multi_task_losses(
        class_logits_NL,
        part_logits_NKhw,
        class_N=torch.tensor([0, 1, 2, 3]),
        coverage_NKHW=torch.rand(4, 2, 64, 64, generator=generator),
        recipe=recipe,
    )
    assert losses.total.item() == pytest.approx(
        (0.5 * losses.terms["dice"] + 2 * losses.terms["bce"] + 3 * losses.terms["cls"]).item()
    )
    losses.total.backward()  # type: ignore[no-untyped-call]
    for logits in (class_logits_NL, part_logits_NKhw):
        assert logits.grad is not None
        assert (logits.grad != 0).all()


def test_losses_of_half_precision_logits_are_float32() -> None:
    losses = multi_task_losses(
        torch.zeros(1, 10, dtype=torch.bfloat16),
        torch.zeros(1, 2, 16, 16, dtype=torch.bfloat16),
        class_N=torch.tensor([3]),
        coverage_NKHW=torch.zeros(1, 2, 64, 64),
        recipe=Recipe(),
    )
    assert losses.total.dtype == torch.float32
    assert losses.terms["cls"].item() == pytest.approx(torch.tensor(10.0).log().item())
