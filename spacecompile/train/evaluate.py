"""Answers and scores of a torch network, with the sealed graph's rules for masks and boxes.

Layout legend: N frames, L classes, K parts, H W frame rows and columns, h w decoder rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacecompile.box_rule import BoxRule
from spacecompile.contract import Cost, ModelSpec, Progress, no_progress
from spacecompile.metrics import ScoreMeter, Scores
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.preprocess import normalised
from spacecompile.train.box.profile import BoxProfile, box_from_profile, frame_logits, logit, profile_of
from spacecompile.train.box.rules import BoxCase
from spacecompile.train.device import DevicePlan
from spacecompile.train.frames.dataset import ValidationFrames
from spacecompile.train.frames.decode import ValidationFrame


@dataclass(frozen=True, kw_only=True)
class FrameAnswer:
    """Answer for one frame.

    Attributes:
        truth: The frame.
        class_index: Most probable class.
        parts_HW: Part bits at the frame's size.
        profile: For the box, under any rule.
    """

    truth: ValidationFrame
    class_index: int
    parts_HW: NDArray[np.uint8]
    profile: BoxProfile


def answer_from_logits(
    class_logits_L: Tensor,
    part_logits_Khw: Tensor,
    residuals_4: Tensor | None = None,
    *,
    truth: ValidationFrame,
    spec: ModelSpec,
    supports_px: Sequence[int] = (),
) -> FrameAnswer:
    """Upsample the part logits once, straight to the frame, and threshold them there."""
    logits_KHW = frame_logits(part_logits_Khw[None], spec, truth.parts_HW.shape)[0]
    parts_HW = sum(
        (logits_KHW[part] > logit(threshold)).to(torch.uint8) << part
        for part, threshold in enumerate(spec.part_thresholds)
    )
    assert isinstance(parts_HW, Tensor)  # a spec has two parts, so the sum is never the integer 0
    return FrameAnswer(
        truth=truth,
        class_index=int(class_logits_L.argmax()),
        parts_HW=parts_HW.cpu().numpy(),
        profile=profile_of(logits_KHW, supports_px=supports_px, residuals_4=residuals_4),
    )


def answers(
    network: MultiTaskNetwork,
    frames: ValidationFrames,
    *,
    plan: DevicePlan,
    batch_size: int,
    supports_px: Sequence[int] = (),
    step: str = "validate",
    progress: Progress = no_progress,
) -> Iterator[FrameAnswer]:
    """Run a network over frames, in order.

    Args:
        network: On the plan's device; put into evaluation mode meanwhile.
        frames: To answer.
        plan: Device and precision.
        batch_size: Inputs per forward pass.
        supports_px: Supports in pixels that box rules may ask for, beside one pixel.
        step: Name for the progress.
        progress: Told after every batch.
    """
    spec, was_training, done = network.spec, network.training, 0
    network.eval()
    try:
        for batch in frames.batches(batch_size):
            outputs = _outputs(network, batch, plan)
            for index, truth in enumerate(batch):
                of_frame = (output[index] for output in outputs)
                yield answer_from_logits(*of_frame, truth=truth, spec=spec, supports_px=supports_px)
            done += len(batch)
            progress(step, done, len(frames))
    finally:
        network.train(was_training)


@torch.no_grad()
def _outputs(network: MultiTaskNetwork, batch: list[ValidationFrame], plan: DevicePlan) -> tuple[Tensor, ...]:
    input_NCHW = torch.stack([frame.input_CHW for frame in batch]).to(plan.device)
    input_NCHW = normalised(input_NCHW, network.spec.mean, network.spec.std)
    with plan.autocast():
        outputs = network(input_NCHW.contiguous(memory_format=torch.channels_last))
    return tuple(output.float() for output in outputs)


def score_rules(
    network: MultiTaskNetwork,
    frames: ValidationFrames,
    rules: Sequence[BoxRule],
    *,
    cost: Cost,
    plan: DevicePlan,
    batch_size: int = 16,
    step: str = "validate",
    progress: Progress = no_progress,
) -> list[Scores]:
    """Score a network at frame size under several box rules, running it once.

    Args:
        network: On the plan's device.
        frames: With their truths.
        rules: To compare.
        cost: For the efficiency scores.
        plan: Device and precision.
        batch_size: Inputs per forward pass.
        step: Name for the progress.
        progress: Told after every batch.

    Returns:
        One record per rule; they differ in `s_det` and what follows from it.
    """
    supports_px = sorted({rule.support_px for rule in rules if rule.support_px > 1})
    found = answers(
        network, frames, plan=plan, batch_size=batch_size, supports_px=supports_px, step=step, progress=progress
    )
    return scores_from_answers(found, rules, spec=network.spec, cost=cost)


def scores_from_answers(
    found: Iterable[FrameAnswer], rules: Sequence[BoxRule], *, spec: ModelSpec, cost: Cost
) -> list[Scores]:
    """Score answers under several box rules.

    Args:
        found: With their truths.
        rules: To compare.
        spec: Spec of the network that answered.
        cost: For the efficiency scores.

    Returns:
        One record per rule; they differ in `s_det` and what follows from it.
    """
    meters = [ScoreMeter(classes=spec.classes) for _ in rules]
    for answer in found:
        truth = answer.truth
        for rule, meter in zip(rules, meters, strict=True):
            box_xyxy = box_from_profile(answer.profile, rule, spec.frame_size_px)
            true_parts_HW = truth.parts_HW if truth.has_parts else None
            meter.add(answer.class_index, truth.class_index, answer.parts_HW, true_parts_HW, box_xyxy, truth.box_xyxy)
    return [meter.scores(cost) for meter in meters]


def cases_from_answers(answers: Iterable[FrameAnswer]) -> list[BoxCase]:
    """Keep of each answer only what the calibration needs."""
    return [
        BoxCase(profile=answer.profile, true_box_xyxy=answer.truth.box_xyxy, class_index=answer.truth.class_index)
        for answer in answers
    ]
