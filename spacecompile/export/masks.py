"""The last nodes of the sealed graph: from part logits on the decoder's grid to parts, box and pixel counts.

Where the frame is a whole multiple of the grid, bilinear upsampling is a convolution: each of the r x r pixels of a
cell (its *phases*) is one fixed blend of the 3 x 3 cells around it. Thresholds, counts and box edges are taken per
phase, and only the finished parts map is shuffled into place: 4.1 ms instead of 6.6 ms on one core at 1024x1024. For
any other ratio the logits are resized to the frame first, and a cell has one phase.

Layout legend: K parts, P phases of a cell, h w grid rows and columns, H W frame rows and columns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from spacecompile.contract import ModelSpec


class FrameParts(NamedTuple):
    """What the part logits say about the frame.

    Attributes:
        parts_HW: uint8, bit 0 body, bit 1 panel.
        box_xyxy: float32 [4], half-open frame pixels, all zero without a pixel above the box threshold.
        parts_px: float32 [K], set pixels per part.
        logit_max: The largest true part logit of the frame, a scalar.
    """

    parts_HW: Tensor
    box_xyxy: Tensor
    parts_px: Tensor
    logit_max: Tensor


def logit(probability: float) -> float:
    """Inverse of the sigmoid. Logits are compared with it, so that no sigmoid of the whole frame is computed."""
    return math.log(probability / (1 - probability))


class PartsInFrame(nn.Module):
    """Upsample, threshold and box the part logits of one frame."""

    row_H: Tensor
    column_W: Tensor
    growth_xyxy: Tensor
    limits_xyxy: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        height, width = spec.frame_size_px
        left, top, right, bottom = spec.box.margins_px
        self.register_buffer("row_H", torch.arange(height, dtype=torch.float32))
        self.register_buffer("column_W", torch.arange(width, dtype=torch.float32))
        self.register_buffer("growth_xyxy", torch.tensor([-left, -top, right, bottom], dtype=torch.float32))
        self.register_buffer("limits_xyxy", torch.tensor([width, height, width, height], dtype=torch.float32))

    def forward(self, part_logits_1Khw: Tensor) -> FrameParts:
        """Turn the logits of one frame into its parts, box and counts."""
        phases, logits_1Phw = self._upsampled(part_logits_1Khw)
        set_1Phw = [
            (logits > logit(threshold)).to(torch.float32)
            for logits, threshold in zip(logits_1Phw, self.spec.part_thresholds, strict=True)
        ]
        # TensorRT has no bitwise operators, and bytes may only leave a Cast: the bits are added as floats.
        coded_1Phw = sum((mask * float(1 << bit) for bit, mask in enumerate(set_1Phw[1:], start=1)), start=set_1Phw[0])
        shuffled_11HW = functional.pixel_shuffle(coded_1Phw, phases) if phases > 1 else coded_1Phw
        largest_1Phw = torch.maximum(*logits_1Phw)
        row_max_H, column_max_W = _edge_profiles(largest_1Phw, phases)
        return FrameParts(
            parts_HW=shuffled_11HW.reshape(self.spec.frame_size_px).to(torch.uint8),
            box_xyxy=self._box(row_max_H, column_max_W),
            parts_px=torch.stack([mask.sum() for mask in set_1Phw]),
            logit_max=self._true(row_max_H.amax(dim=0)),
        )

    def _true(self, logits: Tensor) -> Tensor:
        offset = self.spec.part_logit_offset
        return logits + offset if offset else logits

    def _upsampled(self, part_logits_1Khw: Tensor) -> tuple[int, list[Tensor]]:
        """Phases per cell and axis, and for each part the frame's logits, phase by phase [1, P, h, w]."""
        if self.spec.mask_upsampling == "align_corners":
            part_logits_1Khw = functional.interpolate(
                part_logits_1Khw, self.spec.input_size_px, mode="bilinear", align_corners=True
            )
        (frame_h, frame_w), (grid_h, grid_w) = self.spec.frame_size_px, part_logits_1Khw.shape[2:]
        phases, remainder = divmod(frame_h, grid_h)
        if remainder or (phases * grid_h, phases * grid_w) != (frame_h, frame_w):
            phases = 1
            part_logits_1Khw = functional.interpolate(
                part_logits_1Khw, self.spec.frame_size_px, mode="bilinear", align_corners=False
            )
        if phases > 1:
            # Beyond the edge a bilinear resize repeats the outermost cell.
            part_logits_1Khw = functional.pad(part_logits_1Khw, (1, 1, 1, 1), mode="replicate")
        per_part_11hw = part_logits_1Khw.chunk(part_logits_1Khw.shape[1], dim=1)
        if phases == 1:
            return phases, list(per_part_11hw)
        kernel_P1hw = torch.tensor(_phase_kernel(phases), dtype=torch.float32).reshape(-1, 1, 3, 3)
        return phases, [functional.conv2d(part, kernel_P1hw) for part in per_part_11hw]

    def _box(self, row_max_H: Tensor, column_max_W: Tensor) -> Tensor:
        """Smallest box around every pixel above the box threshold, grown and clipped."""
        box_logit = logit(self.spec.box.threshold) - self.spec.part_logit_offset
        top, bottom = _first_and_end(row_max_H > box_logit, self.row_H)
        left, right = _first_and_end(column_max_W > box_logit, self.column_W)
        tight_xyxy = torch.stack([left, top, right, bottom])
        grown_xyxy = torch.minimum(tight_xyxy + self.growth_xyxy, self.limits_xyxy).clamp(min=0)
        low_xy, high_xy = grown_xyxy.chunk(2)
        # Calibrated margins may be negative; a small box then ends where it begins, and not before.
        ordered_xyxy = torch.cat([low_xy, torch.maximum(low_xy, high_xy)])
        # Without a set pixel `bottom` is 0, and nowhere else.
        found = (bottom > 0).to(torch.float32)
        return ordered_xyxy * found


def _phase_kernel(phases: int) -> list[list[float]]:
    """For each phase of a cell, row by row, the weights of its 3 x 3 neighbours under half-pixel bilinear sampling."""
    weights_per_phase = []
    for phase in range(phases):
        offset_cells = (phase + 0.5) / phases - 0.5
        weights_per_phase.append((max(-offset_cells, 0.0), 1 - abs(offset_cells), max(offset_cells, 0.0)))
    return [
        [row_weight * column_weight for row_weight in row_weights for column_weight in column_weights]
        for row_weights in weights_per_phase
        for column_weights in weights_per_phase
    ]


def _edge_profiles(largest_1Phw: Tensor, phases: int) -> tuple[Tensor, Tensor]:
    """Largest logit of every frame row [H] and column [W]."""
    _, _, grid_h, grid_w = largest_1Phw.shape
    row_max = largest_1Phw.amax(dim=3).reshape(phases, phases, grid_h).amax(dim=1)
    column_max = largest_1Phw.amax(dim=2).reshape(phases, phases, grid_w).amax(dim=0)
    return row_max.permute(1, 0).reshape(-1), column_max.permute(1, 0).reshape(-1)


def _first_and_end(hit_I: Tensor, index_I: Tensor) -> tuple[Tensor, Tensor]:
    """First hit and one past the last, as floats: (length, 0) without a hit."""
    length = float(index_I.shape[0])
    first = torch.where(hit_I, index_I, length).amin(dim=0)
    end = torch.where(hit_I, index_I + 1, 0.0).amax(dim=0)
    return first, end
