"""Training of the box head on a frozen network: a bounded correction of the mask's box.

The network's features and boxes of every frame, as it is and shifted, are computed once; the head then sees them many
times. Whether it may be believed is told by frames of trajectories that it never saw, and it stops learning by others.

Layout legend: N samples, C channels, h w rows and columns of the deepest features, H W input rows and columns.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacecompile.box_rule import BoxHead, BoxRule
from spacecompile.contract import Progress, no_progress
from spacecompile.network.model import BoxResidualHead, MultiTaskNetwork
from spacecompile.network.preprocess import normalised
from spacecompile.train.box.losses import box_losses
from spacecompile.train.box.profile import frame_logits, profile_of, tight_box
from spacecompile.train.box.rules import SUPPORTS_PX, box_ious
from spacecompile.train.device import DevicePlan
from spacecompile.train.frames.dataset import ValidationFrames
from spacecompile.train.frames.decode import ValidationFrame

SHIFTS = 4
"""Shifted copies per frame, beside the frame itself."""

SHIFT_MAX = 0.25
"""Of the input's size."""


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """How the head is trained.

    Attributes:
        shape: Channels and kernel sizes of the head.
        shifts: Shifted copies per frame, beside the frame itself.
        lr, weight_decay: Learning rate and weight decay of AdamW.
        batch_size: Samples per step.
        epochs: At most.
        patience: Epochs without a better loss on the frames it stops by, after which it stops.
        seed: Seed of weights, order and shifts.
    """

    shape: BoxHead = field(default_factory=BoxHead)
    shifts: int = SHIFTS
    lr: float = 3e-3
    weight_decay: float = 1e-2
    batch_size: int = 64
    epochs: int = 100
    patience: int = 10
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class HeadSamples:
    """What the head learns from, in pixels of the spec's frame.

    Attributes:
        features_NChw: The encoder's deepest, in half precision.
        tight_N4: Bare boxes of the mask; samples without one are left out.
        true_N4: True boxes.
        frame_N: Index of the frame that each sample shows.
        is_shifted_N: Whether it shows it shifted.
    """

    features_NChw: Tensor
    tight_N4: Tensor
    true_N4: Tensor
    frame_N: Tensor
    is_shifted_N: Tensor

    def chosen(self, is_chosen_N: Tensor) -> HeadSamples:
        """Some of them."""
        return HeadSamples(
            features_NChw=self.features_NChw[is_chosen_N],
            tight_N4=self.tight_N4[is_chosen_N],
            true_N4=self.true_N4[is_chosen_N],
            frame_N=self.frame_N[is_chosen_N],
            is_shifted_N=self.is_shifted_N[is_chosen_N],
        )


@torch.no_grad()
def head_samples(
    network: MultiTaskNetwork,
    frames: ValidationFrames,
    rule: BoxRule,
    *,
    plan: DevicePlan,
    shifts: int = SHIFTS,
    seed: int = 0,
    step: str = "features",
    progress: Progress = no_progress,
) -> HeadSamples:
    """Features and boxes of frames.

    Args:
        network: On the plan's device, in evaluation mode.
        frames: With their true boxes.
        rule: Rule whose bare boxes the head corrects.
        plan: Device and precision.
        shifts: Shifted copies per frame; the craft stays as far inside the frame as it is.
        seed: Seed of the shifts.
        step: Name for the progress.
        progress: Told after every frame.
    """
    generator, rows, frame_index = torch.Generator().manual_seed(seed), [], 0
    for batch in frames.batches(1):
        for frame in batch:
            offsets_xy = [(0, 0), *(_random_shift(frame, generator) for _ in range(shifts))]
            for features_Chw, tight_4, true_4, offset_xy in _samples_of(network, frame, rule, offsets_xy, plan):
                rows.append((features_Chw, tight_4, true_4, frame_index, offset_xy != (0, 0)))
            frame_index += 1
        progress(step, frame_index, len(frames))
    if not rows:
        empty = torch.zeros(0, 4)
        none = torch.zeros(0, dtype=torch.long)
        return HeadSamples(
            features_NChw=torch.zeros(0, 1, 1, 1), tight_N4=empty, true_N4=empty, frame_N=none, is_shifted_N=none.bool()
        )
    features, tight, true, frame_indices, is_shifted = zip(*rows, strict=True)
    return HeadSamples(
        features_NChw=torch.stack(features),
        tight_N4=torch.tensor(np.array(tight), dtype=torch.float32),
        true_N4=torch.tensor(np.array(true), dtype=torch.float32),
        frame_N=torch.tensor(frame_indices),
        is_shifted_N=torch.tensor(is_shifted),
    )


def _random_shift(frame: ValidationFrame, generator: torch.Generator) -> tuple[int, int]:
    """Whole input pixels to the right and down that leave the craft inside; none along a side where it is cut off."""
    offsets = []
    for axis, input_px in ((0, frame.input_CHW.shape[2]), (1, frame.input_CHW.shape[1])):
        frame_px = frame.parts_HW.shape[1 - axis]
        before_px = frame.box_xyxy[axis] * input_px / frame_px
        behind_px = (frame_px - frame.box_xyxy[axis + 2]) * input_px / frame_px
        if before_px < 1 or behind_px < 1:
            offsets.append(0)
            continue
        low, high = -int(min(before_px, SHIFT_MAX * input_px)), int(min(behind_px, SHIFT_MAX * input_px))
        offsets.append(int(torch.randint(low, high + 1, (), generator=generator)))
    return offsets[0], offsets[1]


def shifted(input_CHW: Tensor, offset_xy: tuple[int, int]) -> Tensor:
    """The picture moved by whole pixels to the right and down; what comes in is black."""
    moved_CHW = torch.zeros_like(input_CHW)
    taken, put = [], []
    for length, offset in zip(input_CHW.shape[1:], offset_xy[::-1], strict=True):
        taken.append(slice(max(0, -offset), length - max(0, offset)))
        put.append(slice(max(0, offset), length - max(0, -offset)))
    moved_CHW[:, *put] = input_CHW[:, *taken]
    return moved_CHW


_Sample = tuple[Tensor, NDArray[np.float64], NDArray[np.float64], tuple[int, int]]


def _samples_of(
    network: MultiTaskNetwork,
    frame: ValidationFrame,
    rule: BoxRule,
    offsets_xy: list[tuple[int, int]],
    plan: DevicePlan,
) -> Iterator[_Sample]:
    spec = network.spec
    (input_h, input_w), (frame_h, frame_w) = frame.input_CHW.shape[1:], spec.frame_size_px
    input_NCHW = torch.stack([shifted(frame.input_CHW, offset_xy) for offset_xy in offsets_xy]).to(plan.device)
    with plan.autocast():
        inputs = normalised(input_NCHW, spec.mean, spec.std).contiguous(memory_format=torch.channels_last)
        features = network.encoder(inputs)
        part_logits_NKhw = network.segmentation_head(network.decoder(features)).float()
    to_spec = np.array([frame_w / frame.parts_HW.shape[1], frame_h / frame.parts_HW.shape[0]] * 2)
    moved = np.array([frame_w / input_w, frame_h / input_h] * 2)
    for index, offset_xy in enumerate(offsets_xy):
        logits_KHW = frame_logits(part_logits_NKhw[index : index + 1], spec, spec.frame_size_px)[0]
        tight_4 = tight_box(profile_of(logits_KHW, supports_px=SUPPORTS_PX if rule.support_px > 1 else ()), rule)
        if tight_4.any():
            true_4 = np.asarray(frame.box_xyxy) * to_spec + np.array([*offset_xy, *offset_xy]) * moved
            yield features[-1][index].half().cpu(), tight_4, true_4, offset_xy


def corrected_boxes(samples: HeadSamples, rule: BoxRule, residuals_N4: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Boxes [N, 4] of the rule with residuals, as the sealed graph makes them."""
    size_N2 = samples.tight_N4[:, 2:] - samples.tight_N4[:, :2]
    shares_N4 = residuals_N4 + torch.tensor(rule.margin_shares)
    growth_N4 = (torch.tensor(rule.margins_px) + shares_N4 * size_N2.repeat(1, 2)) * torch.tensor([-1.0, -1, 1, 1])
    limits_4 = torch.tensor([size_px[1], size_px[0]] * 2, dtype=torch.float32)
    grown_N4 = torch.minimum(samples.tight_N4 + growth_N4, limits_4).clamp(min=0)
    return torch.cat([grown_N4[:, :2], torch.maximum(grown_N4[:, :2], grown_N4[:, 2:])], dim=1)


@torch.no_grad()
def corrected_ious(
    head: BoxResidualHead, samples: HeadSamples, rule: BoxRule, size_px: tuple[int, int]
) -> NDArray[np.float64]:
    """IoU of every sample's corrected box."""
    boxes_N4 = corrected_boxes(samples, rule, _residuals(head, samples), size_px)
    return box_ious(boxes_N4.double().numpy(), samples.true_N4.double().numpy())


def _residuals(head: BoxResidualHead, samples: HeadSamples) -> Tensor:
    return torch.cat([head(features_NChw.float()) for features_NChw in torch.split(samples.features_NChw, 256)])


def trained_head(
    fit: HeadSamples,
    stop: HeadSamples,
    rule: BoxRule,
    *,
    size_px: tuple[int, int],
    settings: HeadSettings,
    step: str = "box head",
    progress: Progress = no_progress,
) -> BoxResidualHead:
    """Train a head; it is never worse than none on the samples that it stops by.

    Args:
        fit: To learn from.
        stop: Frames of other trajectories: learning ends when their loss no longer falls, and the best weights are
            kept.
        rule: Rule whose margins the residuals add to.
        size_px: (height, width) of the spec's frame.
        settings: See there.
        step: Name for the progress.
        progress: Told after every epoch.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        head = BoxResidualHead(fit.features_NChw.shape[1], settings.shape)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)

    def loss_of(samples: HeadSamples, head: BoxResidualHead) -> Tensor:
        boxes_N4 = corrected_boxes(samples, rule, _residuals(head, samples), size_px)
        return box_losses(boxes_N4, samples.true_N4).mean()

    with torch.no_grad():
        best_loss, best_state, best_epoch = float(loss_of(stop, head)), copy.deepcopy(head.state_dict()), 0
    for epoch in range(1, settings.epochs + 1):
        order_N = torch.randperm(len(fit.tight_N4), generator=generator)
        for batch_N in torch.split(order_N, settings.batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(fit.chosen(batch_N), head)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            stop_loss = float(loss_of(stop, head))
        if stop_loss < best_loss:
            best_loss, best_state, best_epoch = stop_loss, copy.deepcopy(head.state_dict()), epoch
        progress(step, epoch, settings.epochs)
        if epoch - best_epoch >= settings.patience:
            break
    progress(step, settings.epochs, settings.epochs)
    head.load_state_dict(best_state)
    return head.eval()
