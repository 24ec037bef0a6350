"""The sealed graph: one raw frame in, one answer out, everything between in one torch module.

It is written once and exported; eager PyTorch running this module on the same frame is the reference that every
shipped file is judged against.

Layout legend: H W frame rows and columns, C channels (RGB), L classes, K parts, h w decoder rows and columns.
"""

from __future__ import annotations

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from spacecompile.contract import ModelSpec, Tta
from spacecompile.errors import UsageError
from spacecompile.export.sealed.box_of_maxima import logit
from spacecompile.export.sealed.frame_to_input import FrameToInput
from spacecompile.export.sealed.parts_in_frame import PartsInFrame
from spacecompile.network.views import (
    d4_views,
    merged_class_probs,
    merged_part_logits,
    undone,
    undone_sides,
    view_disagreement,
)


class SealedGraph(nn.Module):
    """A network with its preprocessing, test-time augmentation, mask upsampling and box rule around it."""

    threshold_logits_1K11: Tensor

    def __init__(self, network: nn.Module, spec: ModelSpec, tta: Tta = "none") -> None:
        """Wrap a network.

        Args:
            network: Module in evaluation mode that maps an input batch to class logits, part logits and perhaps the
                box head's residuals.
            spec: Spec of this very network: a rewritten one may take another input and give shifted part logits.
            tta: Test-time augmentation inside the graph.

        Raises:
            UsageError: If the views of a non-square input are asked for.
        """
        super().__init__()
        check_tta(spec, tta)
        self.tta = tta
        self.part_logit_offset = spec.part_logit_offset
        self.to_input = FrameToInput(spec)
        self.network = network
        self.box_rule = spec.box_of(tta)
        self.to_parts = PartsInFrame(replace(spec, box=self.box_rule))
        threshold_logits = torch.tensor([logit(threshold) for threshold in spec.part_thresholds])
        self.register_buffer("threshold_logits_1K11", threshold_logits.reshape(1, -1, 1, 1))
        self.eval()

    def forward(self, frame_HWC: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Answer one frame.

        Args:
            frame_HWC: Frame as uint8 RGB of the spec's frame size.

        Returns:
            Class probabilities float32 [L]; parts uint8 [H, W], bit 0 body, bit 1 panel; box float32 [4], half-open
            xyxy in frame pixels, all zero without a set pixel; health float32 [6], see `contract.HEALTH_SIGNALS`.
        """
        # In TensorRT bytes may feed nothing but a Cast.
        frame_HWC = frame_HWC.to(torch.float32)
        input_NCHW = self.to_input(frame_HWC)
        frame_mean, frame_max = self.to_input.mean_and_max(input_NCHW)
        if self.tta != "none":
            input_NCHW = d4_views(input_NCHW)
        class_logits_NL, part_logits_NKhw, *residuals = self.network(input_NCHW)
        # Engines may pass over a NaN where they clip or look for the largest value; a sum keeps it.
        zero_or_nan = part_logits_NKhw.sum() * 0.0
        # A rule without residuals weighs them with 0 instead of leaving the head out: an fp16 plan is made on the plain
        # graph and serves the one with views by position, so both need the same network.
        residuals_N4 = residuals[0] * float(self.box_rule.residual) if residuals else None
        class_probs_L = merged_class_probs(class_logits_NL, self.tta)
        disagreement, view_logits_NKhw = torch.zeros(()), None
        if self.tta != "none":
            part_logits_NKhw = undone(part_logits_NKhw)
            view_logits_NKhw = part_logits_NKhw if self.box_rule.views == "median" else None
            residuals_N4 = None if residuals_N4 is None else undone_sides(residuals_N4)
            disagreement = view_disagreement(part_logits_NKhw, self.threshold_logits_1K11)
            part_logits_NKhw = merged_part_logits(part_logits_NKhw, self.tta, offset=self.part_logit_offset)
        parts_HW, box_xyxy, parts_px, logit_max = self.to_parts(part_logits_NKhw, residuals_N4, view_logits_NKhw)
        signals = [frame_mean, frame_max, *parts_px.unbind(), torch.sigmoid(logit_max + zero_or_nan)]
        return class_probs_L, parts_HW, box_xyxy, torch.stack([*signals, disagreement])


def check_tta(spec: ModelSpec, tta: Tta) -> None:
    """Refuse views that a spec can't have.

    Raises:
        UsageError: If the input is not square.
    """
    height_px, width_px = spec.input_size_px
    if tta != "none" and height_px != width_px:
        raise UsageError(
            f"variant {tta} turns the input by quarter turns, but the input is {height_px}x{width_px}, not square. "
            f"Leave {tta} out of --tta, or choose a square --imgsz."
        )
