"""Losses: zero where the answer is right, equal weight for small and large craft, gradients everywhere, teachers."""

from __future__ import annotations

import pytest
import torch

from spacecompile.train.losses import SoftTargets, dice_loss, lovasz_loss, multi_task_losses, teacher_loss
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


def test_lovasz_of_hard_answers_is_one_minus_iou_of_wrong_and_right_pixels() -> None:
    """With logits of +1 and -1 the hinge is 0 or 2, so the loss is twice 1 - IoU, per frame and part."""
    coverage_NKHW = torch.zeros(2, 1, 8, 8)
    coverage_NKHW[0, 0, :4] = 1.0  # 32 pixels
    coverage_NKHW[1, 0, :, :2] = 0.6  # 16 pixels, half covered or more
    answered_NKHW = torch.zeros(2, 1, 8, 8)
    answered_NKHW[0, 0, 2:6] = 1.0  # 16 common, 48 either
    answered_NKHW[1, 0, :, :2] = 1.0
    loss = lovasz_loss(answered_NKHW * 2 - 1, coverage_NKHW)
    assert loss.item() == pytest.approx((2 * (1 - 16 / 48) + 0) / 2, abs=1e-6)


def test_lovasz_is_a_term_only_with_a_weight_and_counts_by_it() -> None:
    generator = torch.Generator().manual_seed(0)
    arguments: dict[str, torch.Tensor] = {
        "class_logits_NL": torch.randn(2, 10, generator=generator),
        "part_logits_NKhw": torch.randn(2, 2, 8, 8, generator=generator),
        "class_N": torch.tensor([0, 1]),
        "coverage_NKHW": torch.rand(2, 2, 32, 32, generator=generator),
    }
    without = multi_task_losses(**arguments, recipe=Recipe())  # type: ignore[arg-type]
    with_it = multi_task_losses(**arguments, recipe=Recipe(lovasz_weight=0.25))  # type: ignore[arg-type]
    assert set(without.terms) == {"dice", "bce", "cls"}
    added = (with_it.total - without.total).item()
    assert added == pytest.approx(0.25 * with_it.terms["lovasz"].item(), rel=1e-4)
    assert added > 0


def test_a_student_that_says_what_its_teacher_says_has_no_loss_and_any_other_has() -> None:
    generator = torch.Generator().manual_seed(0)
    class_logits_NL = torch.randn(3, 10, generator=generator)
    logits_NKHW = torch.randn(3, 2, 16, 16, generator=generator) * 20  # some beyond what a sigmoid resolves
    soft = SoftTargets(class_probs_NL=class_logits_NL.softmax(1), part_logits_NKHW=logits_NKHW)
    assert teacher_loss(class_logits_NL, logits_NKHW.clamp(-30, 30), soft).item() == pytest.approx(0, abs=1e-5)
    assert teacher_loss(class_logits_NL.flip(1), logits_NKHW, soft).item() > 0.1
    assert teacher_loss(class_logits_NL, -logits_NKHW, soft).item() > 0.1
