"""The last nodes of the sealed graph: from part logits on the decoder's grid to parts, box and pixel counts.

Where the frame is a whole multiple of a small grid, bilinear upsampling is two matrix products: one widens the rows,
the other blends each of them with its neighbours. What comes out is the frame, row by row, so that nothing is shuffled.
On two cores at 1024x1024 all of this takes 2.5 ms in ONNX Runtime and OpenVINO (profiles); a resize alone takes 8 ms.
Any other ratio is resized.

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

_STEEPNESS = 2.0**64
"""What a logit's distance from its threshold is scaled by before it is clipped. A power of two changes no digit, any
distance that float32 arithmetic can leave behind a product (1e-8 of a logit) becomes far larger than a bit's value, and
logits up to 1e19 stay finite, in bfloat16 as well."""


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
        frame = self._in_frame(part_logits_1Khw)
        # TensorRT has no bitwise operators, and bytes may only leave a Cast: the bits are added as floats.
        coded_HW = sum(frame.bits_HW[1:], start=frame.bits_HW[0])
        return FrameParts(
            parts_HW=coded_HW.to(torch.uint8),
            box_xyxy=self._box(frame.row_max_H, frame.column_max_W),
            parts_px=torch.stack([bits.sum() / float(1 << bit) for bit, bits in enumerate(frame.bits_HW)]),
            logit_max=self._true(frame.row_max_H.amax(dim=0)),
        )

    def _true(self, logits: Tensor) -> Tensor:
        offset = self.spec.part_logit_offset
        return logits + offset if offset else logits

    def _in_frame(self, part_logits_1Khw: Tensor) -> _InFrame:
        """Bring the logits to the frame's size, by matrix products where it is a whole multiple of their grid."""
        if self.spec.mask_upsampling == "align_corners":
            part_logits_1Khw = functional.interpolate(
                part_logits_1Khw, self.spec.input_size_px, mode="bilinear", align_corners=True
            )
        (frame_h, frame_w), (grid_h, grid_w) = self.spec.frame_size_px, part_logits_1Khw.shape[2:]
        ratio, remainder = divmod(frame_h, grid_h)
        is_whole = not remainder and ratio * grid_w == frame_w
        thresholds = [logit(threshold) for threshold in self.spec.part_thresholds]
        if is_whole and ratio >= _RATIO_MIN:
            return _multiplied(_parted(part_logits_1Khw), thresholds, ratio)
        resized_1KHW = functional.interpolate(
            part_logits_1Khw, self.spec.frame_size_px, mode="bilinear", align_corners=False
        )
        return _resized(_parted(resized_1KHW), thresholds)

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


class _InFrame(NamedTuple):
    """Part logits at frame size, as far as anybody asks.

    Attributes:
        bits_HW: For each part, 0 where its logit is not above its threshold, and the value of its bit where it is.
        row_max_H, column_max_W: Largest logit of any part, per row and column.
    """

    bits_HW: list[Tensor]
    row_max_H: Tensor
    column_max_W: Tensor


def _parted(logits_1Khw: Tensor) -> list[Tensor]:
    """The logits of each part [h, w]. Parted where they are small: a copy of the whole frame is a pass over it."""
    return [part.reshape(part.shape[2:]) for part in logits_1Khw.chunk(logits_1Khw.shape[1], dim=1)]


def _resized(logits_HW: list[Tensor], thresholds: list[float]) -> _InFrame:
    """Threshold logits that are at frame size already."""
    largest_HW = torch.maximum(*logits_HW)
    return _InFrame(
        bits_HW=[
            (logits > threshold).to(torch.float32) * float(1 << bit)
            for bit, (logits, threshold) in enumerate(zip(logits_HW, thresholds, strict=True))
        ],
        row_max_H=largest_HW.amax(dim=1),
        column_max_W=largest_HW.amax(dim=0),
    )


def _multiplied(logits_hw: list[Tensor], thresholds: list[float], ratio: int) -> _InFrame:
    """Upsample and threshold logits of a small grid.

    Thresholding is a clip of the steeply scaled difference: one pass where a comparison and its cast are two. And
    between two cell centres an upsampled line is straight, so that its maximum lies next to a centre: two pixels per
    cell decide the maxima, not all.
    """
    blend_RT = torch.tensor(_taps(ratio), dtype=torch.float32)
    widen_wW = torch.tensor(_widening(logits_hw[0].shape[1], ratio), dtype=torch.float32)
    centres = slice((ratio - 1) // 2, ratio // 2 + 1)
    centre_columns_wD = widen_wW.reshape(widen_wW.shape[0], -1, ratio)[:, :, centres].flatten(1)
    bits_HW, row_maxima_H, column_maxima_W = [], [], []
    for bit, (logits, threshold) in enumerate(zip(logits_hw, thresholds, strict=True)):
        stacked_hTW = _with_neighbours(logits @ widen_wW)
        column_maxima_W.append((blend_RT[centres] @ stacked_hTW).flatten(0, 1).amax(dim=0))
        columns_HD = (blend_RT @ _with_neighbours(logits @ centre_columns_wD)).flatten(0, 1)
        row_maxima_H.append(columns_HD.amax(dim=1))
        steep_HW = ((blend_RT * _STEEPNESS) @ (stacked_hTW - threshold if threshold else stacked_hTW)).flatten(0, 1)
        bits_HW.append(steep_HW.clamp(0.0, float(1 << bit)))
    return _InFrame(bits_HW, torch.maximum(*row_maxima_H), torch.maximum(*column_maxima_W))


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


def _with_neighbours(rows_hW: Tensor) -> Tensor:
    """Each row between the one before and the one behind it [h, 3, W]; beyond the ends the outermost repeats."""
    before_hW = torch.cat([rows_hW[:1], rows_hW[:-1]])
    behind_hW = torch.cat([rows_hW[1:], rows_hW[-1:]])
    return torch.stack([before_hW, rows_hW, behind_hW], dim=1)


def _first_and_end(hit_I: Tensor, index_I: Tensor) -> tuple[Tensor, Tensor]:
    """First hit and one past the last, as floats: (length, 0) without a hit."""
    length = float(index_I.shape[0])
    first = torch.where(hit_I, index_I, length).amin(dim=0)
    end = torch.where(hit_I, index_I + 1, 0.0).amax(dim=0)
    return first, end
