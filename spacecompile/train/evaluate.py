"""Answers and scores of a torch network, with the sealed graph's rules for masks and boxes.

Layout legend: N frames, L classes, K parts, H W frame rows and columns, h w decoder rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spacecompile.contract import BoxRule, Cost, ModelSpec, Progress, no_progress
from spacecompile.metrics import ScoreMeter, Scores
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.preprocess import normalised
from spacecompile.train.dataset import ValidationFrame, ValidationFrames
from spacecompile.train.device import DevicePlan


@dataclass(frozen=True, kw_only=True)
class BoxProfile:
    """What a box needs of the part logits: their maxima along both axes of the frame.

    Attributes:
        rows_H: Largest part logit of each frame row.
        columns_W: Likewise of each column.
    """

    rows_H: NDArray[np.float32]
    columns_W: NDArray[np.float32]


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


def logit(probability: float) -> float:
    """The logit that a probability threshold is: comparing before the sigmoid saves computing it."""
    return math.log(probability / (1 - probability))


def box_from_profile(profile: BoxProfile, rule: BoxRule, frame_size_px: tuple[int, int]) -> NDArray[np.float64]:
    """Smallest box around every pixel above the rule's threshold, grown by its margins and clipped to the frame.

    Args:
        profile: Of a frame of any size.
        rule: Margins in pixels of a frame of `frame_size_px`; they are scaled to the profile's frame.
        frame_size_px: (height, width) that the rule is for.

    Returns:
        Half-open xyxy in pixels of the profile's frame; all zero when no pixel is above the threshold.
    """
    threshold = logit(rule.threshold)
    rows = np.flatnonzero(profile.rows_H > threshold)
    columns = np.flatnonzero(profile.columns_W > threshold)
    if not (rows.size and columns.size):
        return np.zeros(4)
    height_px, width_px = profile.rows_H.size, profile.columns_W.size
    scale_xyxy = np.array([width_px / frame_size_px[1], height_px / frame_size_px[0]] * 2)
    growth_xyxy = np.array([-1, -1, 1, 1]) * np.asarray(rule.margins_px) * scale_xyxy
    box_xyxy = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64) + growth_xyxy
    limit_xyxy = np.array([width_px, height_px, width_px, height_px], np.float64)
    clipped_xyxy: NDArray[np.float64] = np.clip(box_xyxy, 0, limit_xyxy)
    return clipped_xyxy


def answer_from_logits(
    class_logits_L: Tensor, part_logits_Khw: Tensor, *, truth: ValidationFrame, spec: ModelSpec
) -> FrameAnswer:
    """Upsample the part logits once, straight to the frame, and threshold them there."""
    logits_KHW = functional.interpolate(
        part_logits_Khw[None].float(), truth.parts_HW.shape, mode="bilinear", align_corners=False
    )[0]
    parts_HW = sum(
        (logits_KHW[part] > logit(threshold)).to(torch.uint8) << part
        for part, threshold in enumerate(spec.part_thresholds)
    )
    assert isinstance(parts_HW, Tensor)  # a spec has two parts, so the sum is never the integer 0
    strongest_HW = logits_KHW.amax(0)
    return FrameAnswer(
        truth=truth,
        class_index=int(class_logits_L.argmax()),
        parts_HW=parts_HW.cpu().numpy(),
        profile=BoxProfile(rows_H=strongest_HW.amax(1).cpu().numpy(), columns_W=strongest_HW.amax(0).cpu().numpy()),
    )


def answers(
    network: MultiTaskNetwork,
    frames: ValidationFrames,
    *,
    plan: DevicePlan,
    batch_size: int,
    step: str = "validate",
    progress: Progress = no_progress,
) -> Iterator[FrameAnswer]:
    """Run a network over frames, in order.

    Args:
        network: On the plan's device; put into evaluation mode meanwhile.
        frames: To answer.
        plan: Device and precision.
        batch_size: Inputs per forward pass.
        step: Name for the progress.
        progress: Told after every batch.
    """
    spec, was_training, done = network.spec, network.training, 0
    network.eval()
    try:
        for batch in frames.batches(batch_size):
            class_logits_NL, part_logits_NKhw = _logits(network, batch, plan)
            for index, truth in enumerate(batch):
                yield answer_from_logits(class_logits_NL[index], part_logits_NKhw[index], truth=truth, spec=spec)
            done += len(batch)
            progress(step, done, len(frames))
    finally:
        network.train(was_training)


@torch.no_grad()
def _logits(network: MultiTaskNetwork, batch: list[ValidationFrame], plan: DevicePlan) -> tuple[Tensor, Tensor]:
    input_NCHW = torch.stack([frame.input_CHW for frame in batch]).to(plan.device)
    input_NCHW = normalised(input_NCHW, network.spec.mean, network.spec.std)
    with plan.autocast():
        class_logits_NL, part_logits_NKhw = network(input_NCHW.contiguous(memory_format=torch.channels_last))
    return class_logits_NL.float(), part_logits_NKhw.float()


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
    found = answers(network, frames, plan=plan, batch_size=batch_size, step=step, progress=progress)
    return scores_from_answers(found, rules, spec=network.spec, cost=cost)


def scores_from_answers(
    found: Iterable[FrameAnswer], rules: Sequence[BoxRule], *, spec: ModelSpec, cost: Cost
) -> list[Scores]:
    """Score answers under several box rules.

    Args:
        found: With their truths.
        rules: To compare.
        spec: Of the network that answered.
        cost: For the efficiency scores.

    Returns:
        One record per rule; they differ in `s_det` and what follows from it.
    """
    meters = [ScoreMeter(classes=spec.classes) for _ in rules]
    for answer in found:
        truth = answer.truth
        for rule, meter in zip(rules, meters, strict=True):
            box_xyxy = box_from_profile(answer.profile, rule, spec.frame_size_px)
            meter.add(answer.class_index, truth.class_index, answer.parts_HW, truth.parts_HW, box_xyxy, truth.box_xyxy)
    return [meter.scores(cost) for meter in meters]
