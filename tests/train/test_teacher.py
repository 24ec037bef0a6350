"""A teacher answers with the mean over the eight symmetries of the square, at the student's size, in its classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from spacecompile.box_rule import BoxHead, BoxRule
from spacecompile.errors import CheckpointError, UsageError
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.preprocess import normalised
from spacecompile.train.device import plan_device
from spacecompile.train.loop import Callbacks, EpochReport
from spacecompile.train.recipe import Recipe
from spacecompile.train.run import TrainJob, train
from spacecompile.train.teacher import Teacher, load_teacher

CPU = plan_device("cpu", amp=False)
RECIPE = Recipe(epochs=2, batch_size=8, lr=1e-3, encoder_lr_scale=1.0, teacher_weight=2.0, seed=4)


def teacher_of(path: Path, **changes: Any) -> Teacher:
    spec = load_checkpoint(path).spec
    given = {"classes": spec.classes, "input_size_px": spec.input_size_px, "plan": CPU} | changes
    return load_teacher(path, **given)[0]


def pixels() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255


@torch.no_grad()
def mean_over_turns(network: MultiTaskNetwork, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The same by rot90 and flip, one view at a time: class and part probabilities."""
    classes, parts = [], []
    for mirrored in (False, True):
        for quarter_turns in range(4):
            view = pixels_NCHW.flip(3) if mirrored else pixels_NCHW
            view = torch.rot90(view, quarter_turns, (2, 3))
            class_logits, part_logits = network(normalised(view.contiguous(), network.spec.mean, network.spec.std))
            back = torch.rot90(part_logits, -quarter_turns, (2, 3))
            classes.append(class_logits.softmax(1))
            parts.append((back.flip(3) if mirrored else back).sigmoid())
    return torch.stack(classes).mean(0), torch.stack(parts).mean(0)


def test_targets_are_the_mean_over_all_turns_and_mirrors(still_checkpoint: Path) -> None:
    teacher = teacher_of(still_checkpoint)
    soft = teacher.targets(pixels())
    class_probs, part_probs = mean_over_turns(teacher.network, pixels())
    assert torch.allclose(soft.class_probs_NL, class_probs, atol=1e-6)
    expected = functional.interpolate(part_probs.logit(), (64, 64), mode="bilinear", align_corners=False)
    assert torch.allclose(soft.part_logits_NKHW, expected, atol=1e-4)


def test_a_teacher_with_a_box_head_says_what_it_says_without(still_checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(still_checkpoint)
    spec = msgspec.structs.replace(loaded.spec, box_head=BoxHead(), box=BoxRule(residual=True))
    with_head = MultiTaskNetwork(spec)
    with_head.load_state_dict(loaded.network.state_dict(), strict=False)
    save_checkpoint(tmp_path / "head.pt", with_head.eval(), training={})
    found, expected = (teacher_of(path).targets(pixels()) for path in (tmp_path / "head.pt", still_checkpoint))
    assert torch.equal(found.class_probs_NL, expected.class_probs_NL)
    assert torch.equal(found.part_logits_NKHW, expected.part_logits_NKHW)


def test_a_turned_frame_has_turned_targets(still_checkpoint: Path) -> None:
    teacher = teacher_of(still_checkpoint)
    upright, turned = teacher.targets(pixels()), teacher.targets(torch.rot90(pixels(), 1, (2, 3)).contiguous())
    assert torch.allclose(turned.class_probs_NL, upright.class_probs_NL, atol=1e-6)
    assert torch.allclose(turned.part_logits_NKHW, torch.rot90(upright.part_logits_NKHW, 1, (2, 3)), atol=1e-4)


def test_classes_come_in_the_students_order(still_checkpoint: Path) -> None:
    teacher = teacher_of(still_checkpoint)
    soft = teacher_of(still_checkpoint, classes=tuple(reversed(teacher.network.spec.classes))).targets(pixels())
    expected = teacher.targets(pixels()).class_probs_NL
    assert torch.equal(soft.class_probs_NL.flip(1), expected)
    assert not torch.allclose(soft.class_probs_NL, expected, atol=0.02)


def test_targets_of_a_student_with_a_larger_input_are_the_teachers_upsampled(still_checkpoint: Path) -> None:
    teacher = teacher_of(still_checkpoint)
    # One grey per channel, so that resizing changes nothing.
    flat = pixels()[:, :, :1, :1]
    own, larger = (teacher.targets(flat.expand(-1, -1, side, side).contiguous()) for side in (64, 96))
    assert torch.allclose(larger.class_probs_NL, own.class_probs_NL, atol=1e-5)
    assert larger.part_logits_NKHW.shape == (3, 2, 96, 96)
    corners = (larger.part_logits_NKHW[..., 0, 0], own.part_logits_NKHW[..., 0, 0])
    assert torch.allclose(*corners, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        pytest.param({"classes": ("Red", "Green")}, CheckpointError, "same classes", id="other classes"),
        pytest.param({"input_size_px": (64, 96)}, UsageError, "square", id="input that can't be turned"),
        pytest.param({"sha256": "0" * 64}, CheckpointError, "the run began with 000000000000", id="other file"),
    ],
)
def test_what_can_not_teach_is_refused(
    still_checkpoint: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        teacher_of(still_checkpoint, **changes)


def test_a_student_comes_nearer_to_its_teacher_and_a_resumed_one_keeps_it(
    tiny_data: Path, still_checkpoint: Path, tmp_path: Path
) -> None:
    loaded = load_checkpoint(still_checkpoint)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        other = MultiTaskNetwork(msgspec.structs.replace(loaded.spec, mean=(0.2, 0.2, 0.2))).eval()
    save_checkpoint(tmp_path / "teacher.pt", other, training={})
    job = TrainJob(
        data=tiny_data,
        output=tmp_path / "whole",
        recipe=RECIPE,
        init=still_checkpoint,
        device="cpu",
        val_frames=2,
        teacher=tmp_path / "teacher.pt",
    )
    reports: list[EpochReport] = []
    train(job, callbacks=Callbacks(on_epoch=reports.append))
    first, second = (report.losses["teacher"] for report in reports)
    assert second < first
    assert load_checkpoint(job.output / "model.pt").training["teacher_sha256"]

    def stop(report: EpochReport) -> None:
        raise KeyboardInterrupt

    job = replace(job, output=tmp_path / "resumed")
    with pytest.raises(KeyboardInterrupt):
        train(job, callbacks=Callbacks(on_epoch=stop))
    resumed: list[EpochReport] = []
    with pytest.raises(UsageError, match="--teacher"):
        train(replace(job, init=None, resume=True))
    train(replace(job, init=None, teacher=None, resume=True), callbacks=Callbacks(on_epoch=resumed.append))
    assert [report.losses for report in resumed] == [reports[1].losses]
