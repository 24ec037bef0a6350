"""Box losses: their values against torchvision and plain loops, their gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spacecompile.train.box.losses import (
    box_losses,
    covered_box,
    mask_box_loss,
    projection_loss,
    soft_box,
    true_box,
    warmed_up,
)


def random_boxes(count: int, seed: int) -> Tensor:
    corners = 60 * torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([corners.amin(1), corners.amax(1) + 0.5], dim=1)


def scene(*, left: int = 9, top: int = 4, width: int = 6, height: int = 10, low: float = -6.0) -> Tensor:
    """Logits [1, 2, 24, 32] of a craft, in float64 and a little uneven so that every maximum is one pixel's."""
    logits = low + torch.rand(1, 2, 24, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[0, 0, top : top + height, left : left + width] += 12
    return logits


def coverage(*, left: int, top: int, right: int, bottom: int) -> Tensor:
    covered = torch.zeros(1, 2, 24, 32, dtype=torch.float64)
    covered[0, 1, top:bottom, left:right] = 1
    return covered


@pytest.mark.parametrize(
    ("box", "giou", "distance"),
    [
        pytest.param((10, 10, 20, 30), 1.0, 0.0, id="same"),
        pytest.param((10, 10, 20, 20), 0.5, 0.125, id="half"),
        pytest.param((20, 10, 30, 30), 0.0, 0.5, id="side by side"),
        pytest.param((40, 10, 50, 30), -0.5, 1.5, id="apart"),
    ],
)
def test_the_box_loss_of_boxes_that_can_be_told_by_head(box: tuple[float, ...], giou: float, distance: float) -> None:
    lost = box_losses(torch.tensor([box]).float(), torch.tensor([[10.0, 10, 20, 30]]))
    assert lost.item() == pytest.approx(1 - giou + distance)


def test_gradients_of_the_box_loss_are_right() -> None:
    boxes = random_boxes(6, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: box_losses(given, random_boxes(6, 4)), (boxes,))


def test_gradients_of_soft_boxes_are_right() -> None:
    logits = scene(low=-4.0).requires_grad_()
    assert torch.autograd.gradcheck(soft_box, (logits,))


@pytest.mark.parametrize("low", [-6.0, -2.0], ids=["clear mask", "faint sky"])
def test_gradients_of_the_loss_through_the_mask_are_right(low: float) -> None:
    logits = scene(low=low).requires_grad_()
    truth = coverage(left=7, top=5, right=17, bottom=13)
    assert torch.autograd.gradcheck(lambda given: mask_box_loss(given, truth), (logits,))


def test_a_soft_side_is_the_sum_of_products_of_the_literature() -> None:
    logits = scene(low=-3.0)
    probs = torch.sigmoid(logits.amax(1)[0])
    for side, maxima in ((0, probs.amax(0)), (1, probs.amax(1))):
        expected, product = 0.0, 1.0
        for prob in maxima.tolist():
            product *= 1 - prob
            expected += product
        assert soft_box(logits)[0, side].item() == pytest.approx(expected)


def test_the_soft_box_of_a_clear_mask_is_its_box() -> None:
    logits = torch.where(scene() > 0, 20.0, -20.0)
    torch.testing.assert_close(soft_box(logits), torch.tensor([[9.0, 4.0, 15.0, 14.0]]), atol=1e-3, rtol=0)


def test_descending_the_loss_moves_every_side_to_the_truth() -> None:
    logits = scene().requires_grad_()
    truth = coverage(left=7, top=6, right=18, bottom=12)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    before = mask_box_loss(logits, truth).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = mask_box_loss(logits, truth)
        loss.backward()
        optimizer.step()
    assert before > 0.5
    assert loss.item() < 0.05
    torch.testing.assert_close(soft_box(logits.detach())[0], covered_box(truth)[0][0], atol=0.2, rtol=0)


def test_an_empty_mask_gets_a_gradient_and_a_frame_without_craft_none() -> None:
    logits = torch.full((1, 2, 24, 32), -8.0, requires_grad=True)
    mask_box_loss(logits, coverage(left=7, top=6, right=18, bottom=12).float()).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().max() > 0
    logits.grad = None
    loss = mask_box_loss(logits, torch.zeros(1, 2, 24, 32))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("labelled", [True, False], ids=["masks", "boxes alone"])
def test_shares_with_different_numbers_of_crafts_give_the_loss_and_gradient_of_one_batch(labelled: bool) -> None:
    """Five frames per process: four crafts in the first share, one in the second."""
    shown = torch.tensor([True, True, True, True, False, True, False, False, False, False])
    truths = coverage(left=7, top=6, right=18, bottom=12) * shown[:, None, None, None]
    boxes = torch.tensor([7.0, 6, 18, 12], dtype=torch.float64) * shown[:, None]
    has_parts = torch.full((10,), labelled)
    shifts = torch.linspace(0, 3, 10, dtype=torch.float64)[:, None, None, None]

    def loss_of(logits: Tensor, rows: slice) -> Tensor:
        return mask_box_loss(logits[rows], truths[rows], boxes[rows], has_parts[rows])

    whole, shared = (scene(low=-4.0) + shifts for _ in range(2))
    whole, shared = whole.requires_grad_(), shared.requires_grad_()
    alone = loss_of(whole, slice(10))
    together = (loss_of(shared, slice(5)) + loss_of(shared, slice(5, 10))) / 2
    alone.backward()
    together.backward()
    assert alone.item() == pytest.approx(together.item(), rel=1e-12)
    torch.testing.assert_close(whole.grad, shared.grad, rtol=1e-9, atol=1e-12)
    assert whole.grad is not None
    assert whole.grad.abs().amax((1, 2, 3)).gt(0).tolist() == shown.tolist()


def test_the_true_box_is_that_of_pixels_covered_by_half() -> None:
    covered = coverage(left=7, top=6, right=18, bottom=12)
    covered[0, 0, 3, 20], covered[0, 0, 2, 2] = 0.5, 0.4
    box, is_there = covered_box(covered)
    assert box.tolist() == [[7, 3, 21, 12]]
    assert is_there.tolist() == [True]


def test_projections_of_a_right_answer_have_no_loss_and_every_wrong_row_and_column_has_a_gradient() -> None:
    truth = torch.tensor([[9.0, 4.0, 15.0, 14.0]], dtype=torch.float64)
    right = torch.where(scene() > 0, 20.0, -20.0)
    assert projection_loss(right, truth).item() == pytest.approx(0, abs=1e-6)
    logits = scene(left=20, width=8, low=-2.0).requires_grad_()
    projection_loss(logits, truth).sum().backward()
    assert logits.grad is not None
    columns = logits.grad.sum((0, 1, 2))
    assert columns[9:15].lt(0).all()
    assert columns[20:28].gt(0).all()


def test_a_side_between_two_pixels_wants_its_share_of_the_column() -> None:
    logits = torch.where(scene() > 0, 20.0, -20.0)
    logits[..., 15] = torch.where(logits[..., 14] > 0, 0.0, -20.0)  # half
    truth = torch.tensor([[9.0, 4.0, 15.5, 14.0]])
    assert projection_loss(logits, truth).item() == pytest.approx(0, abs=1e-6)


def test_the_labelled_box_is_learned_only_where_parts_are_not_labelled() -> None:
    covered = coverage(left=7, top=6, right=18, bottom=12).expand(3, -1, -1, -1)
    labelled = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4], [5, 5, 5.5, 9]])
    boxes, is_there = true_box(covered, labelled, torch.tensor([True, False, False]))
    assert boxes[:2].tolist() == [[7, 6, 18, 12], [1, 2, 3, 4]]
    assert is_there.tolist() == [True, True, False]


@pytest.mark.parametrize(("run_share", "weight"), [(0.0, 0.0), (0.3, 0.0), (0.4, 1.0), (0.5, 2.0), (1.0, 2.0)], ids=str)
def test_the_weight_rises_after_thirty_percent_of_the_run(run_share: float, weight: float) -> None:
    assert warmed_up(2.0, run_share) == pytest.approx(weight)
