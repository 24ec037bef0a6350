"""Frames through a frozen network, kept only as far as boxes ask.

Layout legend: N frames, V views, C channels, K parts, H W input rows and columns, h w decoder rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from spacecompile.contract import Progress, Tta, no_progress
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.preprocess import normalised
from spacecompile.network.views import d4_views, merged_part_logits, undone
from spacecompile.train.box.profile import BoxProfile, frame_logits, profile_of
from spacecompile.train.box.rules import SUPPORTS_PX, BoxCase
from spacecompile.train.device import DevicePlan
from spacecompile.train.frames.dataset import ValidationFrames
from spacecompile.train.frames.decode import ValidationFrame


@dataclass(kw_only=True)
class Cases:
    """What boxes are made of, for every usable frame in order.

    Attributes:
        plain: One case of each usable frame as it is.
        d4: One case of each frame's eight views, merged and each by itself; empty where they were not asked for.
    """

    plain: list[BoxCase] = field(default_factory=list)
    d4: list[BoxCase] = field(default_factory=list)


@torch.inference_mode()
def box_cases(
    network: MultiTaskNetwork,
    frames: ValidationFrames,
    *,
    plan: DevicePlan,
    tta: Tta = "none",
    batch_size: int = 8,
    step: str = "boxes",
    progress: Progress = no_progress,
) -> Cases:
    """Run a network over frames.

    Args:
        network: On the plan's device, in evaluation mode.
        frames: To answer.
        plan: Device and precision.
        tta: Whether, and how merged, the D4 views are wanted too; eight times the work.
        batch_size: Inputs per forward pass.
        step: Name for the progress.
        progress: Told after every batch.
    """
    cases, spec = Cases(), network.spec
    for batch in frames.batches(batch_size if tta == "none" else 1):
        input_NCHW = torch.stack([frame.input_CHW for frame in batch]).to(plan.device)
        input_NCHW = normalised(input_NCHW, spec.mean, spec.std)
        if tta != "none":
            input_NCHW = d4_views(input_NCHW)
        with plan.autocast():
            _, part_logits_NKhw, *_ = network(input_NCHW.contiguous(memory_format=torch.channels_last))
        logits_NKhw = part_logits_NKhw.float()
        if tta != "none":
            cases.d4.append(_d4_case(undone(logits_NKhw), batch[0], network, tta))
            logits_NKhw = logits_NKhw[:1]
        for frame, logits_1Khw in zip(batch, torch.split(logits_NKhw, 1), strict=True):
            logits_KHW = frame_logits(logits_1Khw, spec, frame.parts_HW.shape)[0]
            profile = profile_of(logits_KHW, supports_px=SUPPORTS_PX)
            cases.plain.append(_case(profile, frame))
        progress(step, len(cases.plain), len(frames))
    return cases


def _d4_case(logits_VKhw: Tensor, frame: ValidationFrame, network: MultiTaskNetwork, tta: Tta) -> BoxCase:
    spec, size_px = network.spec, frame.parts_HW.shape
    merged_KHW = frame_logits(merged_part_logits(logits_VKhw, tta), spec, size_px)[0]
    views = tuple(
        profile_of(frame_logits(view_1Khw, spec, size_px)[0], supports_px=SUPPORTS_PX)
        for view_1Khw in torch.split(logits_VKhw, 1)
    )
    profile = profile_of(merged_KHW, supports_px=SUPPORTS_PX, views=views)
    return _case(profile, frame)


def _case(profile: BoxProfile, frame: ValidationFrame) -> BoxCase:
    return BoxCase(profile=profile, true_box_xyxy=frame.box_xyxy, class_index=frame.class_index)
