"""The last nodes of the sealed graph: from part logits on the decoder's grid to parts, box and pixel counts.

Where the frame is a whole multiple of a small grid, bilinear upsampling is two matrix products: one widens the rows,
the other blends each of them with its neighbours. What comes out is the frame, row by row, so that nothing is shuffled.
On two cores at 1024x1024 all of this takes 2.9 ms in ONNX Runtime, as much as with one 3x3 convolution per part and a
shuffle, and 2.5 instead of 3.5 ms in OpenVINO with bf16; a resize takes 8 ms. Any other ratio is resized.

Layout legend: K parts, h w grid rows and columns, H W frame rows and columns, R frame rows per grid row, T 3 taps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from spacecompile.contract import ModelSpec

_RATIO_MIN = 4
"""From it on two matrix products are cheaper than a resize: the first costs, per frame pixel, as many multiply-adds as
the grid is wide over the ratio."""


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
        logits_HW = self._upsampled(part_logits_1Khw)
        set_HW = [
            (logits > logit(threshold)).to(torch.float32)
            for logits, threshold in zip(logits_HW, self.spec.part_thresholds, strict=True)
        ]
        # TensorRT has no bitwise operators, and bytes may only leave a Cast: the bits are added as floats.
        coded_HW = sum((mask * float(1 << bit) for bit, mask in enumerate(set_HW[1:], start=1)), start=set_HW[0])
        largest_HW = torch.maximum(*logits_HW)
        row_max_H, column_max_W = largest_HW.amax(dim=1), largest_HW.amax(dim=0)
        return FrameParts(
            parts_HW=coded_HW.to(torch.uint8),
            box_xyxy=self._box(row_max_H, column_max_W),
            parts_px=torch.stack([mask.sum() for mask in set_HW]),
            logit_max=self._true(row_max_H.amax(dim=0)),
        )

    def _true(self, logits: Tensor) -> Tensor:
        offset = self.spec.part_logit_offset
        return logits + offset if offset else logits

    def _upsampled(self, part_logits_1Khw: Tensor) -> list[Tensor]:
        """For each part the frame's logits [H, W]."""
        if self.spec.mask_upsampling == "align_corners":
            part_logits_1Khw = functional.interpolate(
                part_logits_1Khw, self.spec.input_size_px, mode="bilinear", align_corners=True
            )
        (frame_h, frame_w), (grid_h, grid_w) = self.spec.frame_size_px, part_logits_1Khw.shape[2:]
        ratio, remainder = divmod(frame_h, grid_h)
        is_whole = not remainder and ratio * grid_w == frame_w
        if not is_whole or ratio < _RATIO_MIN:
            part_logits_1Khw = functional.interpolate(
                part_logits_1Khw, self.spec.frame_size_px, mode="bilinear", align_corners=False
            )
        # Parted where they are small: behind the upsampling each would be a copy of the whole frame.
        per_part_hw = [
            part.reshape(part.shape[2:]) for part in part_logits_1Khw.chunk(part_logits_1Khw.shape[1], dim=1)
        ]
        if not is_whole or ratio < _RATIO_MIN:
            return per_part_hw
        blend_RT = torch.tensor(_taps(ratio), dtype=torch.float32)
        widen_wW = torch.tensor(_widening(grid_w, ratio), dtype=torch.float32)
        return [_rows_between(part @ widen_wW, blend_RT) for part in per_part_hw]

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


def _taps(ratio: int) -> list[tuple[float, float, float]]:
    """For each frame pixel of a cell the weights of the cells before, at and behind it, under half-pixel sampling."""
    offsets_cells = [(phase + 0.5) / ratio - 0.5 for phase in range(ratio)]
    return [(max(-offset, 0.0), 1 - abs(offset), max(offset, 0.0)) for offset in offsets_cells]


def _widening(grid: int, ratio: int) -> list[list[float]]:
    """The matrix [w, W] that upsamples a row; beyond its ends the outermost cell repeats."""
    matrix = [[0.0] * (grid * ratio) for _ in range(grid)]
    for cell in range(grid):
        for phase, weights in enumerate(_taps(ratio)):
            for shift, weight in zip((-1, 0, 1), weights, strict=True):
                matrix[min(max(cell + shift, 0), grid - 1)][cell * ratio + phase] += weight
    return matrix


def _rows_between(rows_hW: Tensor, blend_RT: Tensor) -> Tensor:
    """Upsample the rows [h, W] to the frame [H, W]."""
    before_hW = torch.cat([rows_hW[:1], rows_hW[:-1]])
    behind_hW = torch.cat([rows_hW[1:], rows_hW[-1:]])
    blended_hRW = blend_RT @ torch.stack([before_hW, rows_hW, behind_hW], dim=1)
    return blended_hRW.flatten(0, 1)


def _first_and_end(hit_I: Tensor, index_I: Tensor) -> tuple[Tensor, Tensor]:
    """First hit and one past the last, as floats: (length, 0) without a hit."""
    length = float(index_I.shape[0])
    first = torch.where(hit_I, index_I, length).amin(dim=0)
    end = torch.where(hit_I, index_I + 1, 0.0).amax(dim=0)
    return first, end
