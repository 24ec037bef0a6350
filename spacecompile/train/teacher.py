"""A trained network as a teacher: what it says about a batch, averaged over the eight D4 views.

The student then learns in one pass what the teacher needs eight for. (Hinton et al., Distilling the Knowledge in a
Neural Network, 2015; the average over views as in Radosavovic et al., Data Distillation, CVPR 2018.)

Layout legend: N frames, V views, C channels, L classes, K parts, H W input rows and columns, h w decoder rows and
columns, X all parts of all frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from spacecompile.errors import CheckpointError, UsageError
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.preprocess import normalised
from spacecompile.network.views import d4_views, merged_part_logits, undone
from spacecompile.train.device import DevicePlan
from spacecompile.train.losses import SoftTargets

VIEWS = 8


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A network in evaluation mode that is asked and never trained.

    Attributes:
        network: On the plan's device.
        plan: Device and precision.
        class_order_L: Index in the teacher of each class of the student.
    """

    network: MultiTaskNetwork
    plan: DevicePlan
    class_order_L: Tensor

    @torch.no_grad()
    def targets(self, pixels_NCHW: Tensor) -> SoftTargets:
        """Mean class probabilities, and the logits of the mean part probabilities.

        Args:
            pixels_NCHW: RGB, 0 to 255, square, at the student's input size, as augmented for the student; resized to
                the teacher's input.

        Returns:
            Part logits are at the size of `pixels_NCHW`.
        """
        spec, size_px = self.network.spec, (pixels_NCHW.shape[2], pixels_NCHW.shape[3])
        frames = pixels_NCHW.shape[0]
        if size_px != spec.input_size_px:
            pixels_NCHW = functional.interpolate(
                pixels_NCHW, spec.input_size_px, mode="bilinear", align_corners=False, antialias=True
            )
        views_NCHW = d4_views(normalised(pixels_NCHW, spec.mean, spec.std))  # view by view, all frames of each
        with self.plan.autocast():
            class_logits_NL, part_logits_NKhw, *_ = self.network(
                views_NCHW.contiguous(memory_format=torch.channels_last)
            )
        class_probs_NL = class_logits_NL.float().softmax(1).reshape(VIEWS, frames, -1).mean(0)
        posed_NKhw = undone(part_logits_NKhw.float() + spec.part_logit_offset)
        posed_VXhw = posed_NKhw.reshape(VIEWS, -1, *posed_NKhw.shape[2:])
        # The views are merged pixel by pixel, so that frames can stand beside parts.
        merged_NKhw = merged_part_logits(posed_VXhw, "d4").reshape(frames, -1, *posed_NKhw.shape[2:])
        return SoftTargets(
            class_probs_NL=class_probs_NL[:, self.class_order_L],
            part_logits_NKHW=functional.interpolate(
                merged_NKhw, size_px, mode="bilinear", align_corners=spec.mask_upsampling == "align_corners"
            ),
        )


def load_teacher(
    path: Path, *, classes: Sequence[str], input_size_px: tuple[int, int], plan: DevicePlan, sha256: str = ""
) -> tuple[Teacher, str]:
    """Read a checkpoint as a teacher.

    Args:
        path: Path of the checkpoint.
        classes: Class names of the student.
        input_size_px: (height, width) of the student.
        plan: Device and precision.
        sha256: SHA-256 that the file must have, when a run is resumed.

    Returns:
        The teacher, and its file's SHA-256.

    Raises:
        CheckpointError: If it can't be read, has other classes, or is another file than the run began with.
        UsageError: If an input is not square, which the D4 views need.
    """
    loaded = load_checkpoint(path)
    if sha256 and loaded.sha256 != sha256:
        raise CheckpointError(
            f"teacher {path} has SHA-256 {loaded.sha256[:12]}, the run began with {sha256[:12]}. Put the former "
            "teacher back, or start anew."
        )
    if set(loaded.spec.classes) != set(classes):
        raise CheckpointError(
            f"teacher {path} knows the classes {', '.join(loaded.spec.classes)}; the network has "
            f"{', '.join(classes)}. Choose a --teacher with the same classes."
        )
    for owner, size_px in (("teacher", loaded.spec.input_size_px), ("network", input_size_px)):
        if size_px[0] != size_px[1]:
            raise UsageError(
                f"the {owner}'s input is {size_px[0]}x{size_px[1]}; the eight views of a teacher need a square one. "
                "Choose another --imgsz or --teacher."
            )
    network = loaded.network.to(plan.device).to(memory_format=torch.channels_last).requires_grad_(False)
    order_L = torch.tensor([loaded.spec.classes.index(name) for name in classes], device=plan.device)
    return Teacher(network=network.eval(), plan=plan, class_order_L=order_L), loaded.sha256
