"""What a batch is judged by: boxes move with their frames, and teach the parts' logits where nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.train.augment import SETTINGS, AugmentSettings
from spacecompile.train.device import plan_device
from spacecompile.train.frames.dataset import Batch
from spacecompile.train.fused_decoder import TrainingForward
from spacecompile.train.losses import Losses
from spacecompile.train.objective import Objective, batch_losses
from spacecompile.train.recipe import Recipe

CPU = plan_device("cpu", amp=False)
FRAMES = 8


def batch(*, has_parts: bool) -> Batch:
    """A bright craft on black, far from the middle. Without masks its coverage is 0."""
    pixels_NCHW = torch.zeros(FRAMES, 5, 64, 64, dtype=torch.uint8)
    pixels_NCHW[:, : 3 + has_parts, 6:20, 34:60] = 255
    return Batch(
        pixels_NCHW=pixels_NCHW,
        class_N=torch.zeros(FRAMES, dtype=torch.int64),
        boxes_N4=torch.tensor([[34.0, 6, 60, 20]] * FRAMES),
        has_parts_N=torch.full((FRAMES,), has_parts),
    )


def bright_parts(input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """A network that knows: its parts are what is bright."""
    return torch.zeros(FRAMES, 10), torch.where(input_NCHW[:, :2] > 0, 20.0, -20.0)


def losses_of(start: Path, given: Batch, *, box_weight: float, knows: bool = False) -> tuple[Losses, Objective]:
    network = load_checkpoint(start).network.train()
    objective = Objective(
        spec=network.spec,
        recipe=Recipe(augment="medium"),
        plan=CPU,
        forward=bright_parts if knows else TrainingForward(network),
    )
    return batch_losses(objective, given, torch.Generator().manual_seed(0), box_weight=box_weight), objective


@pytest.mark.parametrize("has_parts", [True, False], ids=["mask's box", "labelled box"])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(AugmentSettings(rotated_share=0.0), id="flips and turns"),
        pytest.param(AugmentSettings(rotated_share=1.0, rotation_deg=0.0, scale=(0.6, 0.9), shift=0.2), id="moved"),
    ],
)
def test_a_right_answer_has_no_box_loss_however_the_frame_was_moved(
    still_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, settings: AugmentSettings, *, has_parts: bool
) -> None:
    monkeypatch.setitem(SETTINGS, "medium", settings)
    given = batch(has_parts=has_parts)
    losses, _ = losses_of(still_checkpoint, given, box_weight=1.0, knows=True)
    assert losses.terms["box"].item() < 0.15
    wrong = Batch(
        pixels_NCHW=given.pixels_NCHW.flip(2),
        class_N=given.class_N,
        boxes_N4=given.boxes_N4,
        has_parts_N=torch.zeros(FRAMES, dtype=torch.bool),
    )
    assert losses_of(still_checkpoint, wrong, box_weight=1.0, knows=True)[0].terms["box"].item() > 0.5


@pytest.mark.parametrize("box_weight", [1.0, 0.0])
def test_without_masks_nothing_but_the_box_reaches_the_parts(still_checkpoint: Path, box_weight: float) -> None:
    losses, objective = losses_of(still_checkpoint, batch(has_parts=False), box_weight=box_weight)
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert isinstance(objective.forward, TrainingForward)
    gradients = [parameter.grad for parameter in objective.forward.network.segmentation_head.parameters()]
    reached = any(bool(gradient.any()) for gradient in gradients if gradient is not None)
    assert reached == (box_weight > 0)


def test_a_craft_that_left_the_frame_teaches_no_box(still_checkpoint: Path) -> None:
    given = batch(has_parts=False)
    given.boxes_N4[1:] = torch.tensor([64.0, 20, 64, 30])
    given.boxes_N4[0] = torch.tensor([63.5, 20, 64, 30])  # a sliver
    losses, _ = losses_of(still_checkpoint, given, box_weight=1.0)
    assert losses.terms["box"].item() == 0
