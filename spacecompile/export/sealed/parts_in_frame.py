"""The last nodes of the sealed graph: from part logits on the decoder's grid to parts, box and pixel counts.

Where the frame is a whole multiple of a small grid, bilinear upsampling is two matrix products: one widens the rows,
the other blends each of them with its neighbours. What comes out is the frame, row by row, so that nothing is shuffled.
On two cores at 1024x1024 all of this takes 2.5 ms in ONNX Runtime and OpenVINO (profiles); a resize alone takes 8 ms.
Any other ratio is resized.

Layout legend: K parts, h w grid rows and columns, H W frame rows and columns, R frame rows per grid row, T 3 taps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from spacecompile.contract import ModelSpec
from spacecompile.export.sealed.box_of_maxima import BoxOfMaxima, Maxima, logit, middle_box

_RATIO_MIN = 4
"""Smallest ratio at which two matrix products are cheaper than a resize: the first product costs, per frame pixel, as
many multiply-adds as the grid is wide over the ratio."""

_STEEPNESS = 2.0**64
"""Factor on a logit's distance from its threshold before it is clipped. A power of two changes no digit, any
distance that float32 arithmetic can leave behind a product (1e-8 of a logit) becomes far larger than a bit's value, and
logits up to 1e19 stay finite, in bfloat16 as well."""


class FrameParts(NamedTuple):
    """What the part logits say about the frame.

    Attributes:
        parts_HW: Parts as uint8, bit 0 body, bit 1 panel.
        box_xyxy: Box as float32 [4], half-open frame pixels, all zero without a pixel above the box threshold.
        parts_px: Number of set pixels of each part, float32 [K].
        logit_max: The largest true part logit of the frame, a scalar.
    """

    parts_HW: Tensor
    box_xyxy: Tensor
    parts_px: Tensor
    logit_max: Tensor


class PartsInFrame(nn.Module):
    """Upsample, threshold and box the part logits of one frame."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.to_box = BoxOfMaxima(spec)

    def forward(
        self, part_logits_1Khw: Tensor, residuals_V4: Tensor | None = None, view_logits_VKhw: Tensor | None = None
    ) -> FrameParts:
        """Turn the logits of one frame into its parts, box and counts.

        Args:
            part_logits_1Khw: Part logits of the frame, its views merged.
            residuals_V4: Residuals of the box head for each view, in the frame's pose; None where the rule uses none.
            view_logits_VKhw: Part logits of each view where the box is the median of the views' boxes; None where it is
                that of the merged logits.
        """
        frame = self._in_frame(part_logits_1Khw)
        # TensorRT has no bitwise operators, and bytes may only leave a Cast: the bits are added as floats.
        coded_HW = sum(frame.bits_HW[1:], start=frame.bits_HW[0])
        if view_logits_VKhw is None:
            maxima = self._supported(frame.maxima, part_logits_1Khw[0])
            box_xyxy = self.to_box(maxima, None if residuals_V4 is None else residuals_V4.mean(dim=0))
        else:
            box_xyxy = middle_box(self.to_box(self._maxima(view_logits_VKhw), residuals_V4))
        # The bits carry their values, by which their sums are divided to count pixels.
        return FrameParts(
            parts_HW=coded_HW.to(torch.uint8),
            box_xyxy=box_xyxy,
            parts_px=torch.stack([bits.sum() / float(1 << bit) for bit, bits in enumerate(frame.bits_HW)]),
            logit_max=self._true(frame.maxima.rows.amax(dim=0)),
        )

    def _true(self, logits: Tensor) -> Tensor:
        offset = self.spec.part_logit_offset
        return logits + offset if offset else logits

    def _in_frame(self, part_logits_1Khw: Tensor) -> _InFrame:
        """Bring the logits to the frame's size, by matrix products where it is a whole multiple of their grid."""
        part_logits_1Khw = self._aligned(part_logits_1Khw)
        ratio = self._whole_ratio(part_logits_1Khw)
        thresholds = [logit(threshold) for threshold in self.spec.part_thresholds]
        if ratio:
            return _multiplied(_parted(part_logits_1Khw), thresholds, ratio)
        return _resized(_parted(self._interpolated(part_logits_1Khw)), thresholds)

    def _maxima(self, part_logits_VKhw: Tensor) -> Maxima:
        """Maxima of several pictures whose masks are not needed."""
        logits_VKhw = self._aligned(part_logits_VKhw)
        ratio = self._whole_ratio(logits_VKhw)
        if ratio:
            rows, columns = _multiplied_maxima(logits_VKhw, ratio)
            maxima = Maxima(rows.amax(dim=1), columns.amax(dim=1))
        else:
            largest_VHW = self._interpolated(logits_VKhw).amax(dim=1)
            maxima = Maxima(largest_VHW.amax(dim=-1), largest_VHW.amax(dim=-2))
        return self._supported(maxima, part_logits_VKhw)

    def _supported(self, maxima: Maxima, part_logits_xKhw: Tensor) -> Maxima:
        """The same with pixel counts, which cost a pass over the frame: only where one pixel is not enough."""
        if self.spec.box.support_px == 1:
            return maxima
        logits_VKhw = self._aligned(part_logits_xKhw.reshape(-1, *part_logits_xKhw.shape[-3:]))
        ratio = self._whole_ratio(logits_VKhw)
        frames_VKHW = _multiplied_frames(logits_VKhw, ratio) if ratio else self._interpolated(logits_VKhw)
        above_VHW = (frames_VKHW.amax(dim=1) > self.to_box.threshold).to(torch.float32)
        above = above_VHW.reshape(*maxima.rows.shape, above_VHW.shape[-1])
        return maxima._replace(row_px=above.sum(dim=-1), column_px=above.sum(dim=-2))

    def _aligned(self, part_logits_VKhw: Tensor) -> Tensor:
        """At input size, for a network whose logits keep aligned corners that far."""
        if self.spec.mask_upsampling == "half_pixel":
            return part_logits_VKhw
        return functional.interpolate(part_logits_VKhw, self.spec.input_size_px, mode="bilinear", align_corners=True)

    def _whole_ratio(self, part_logits_VKhw: Tensor) -> int:
        """Frame rows per grid row where matrix products are cheaper than a resize, otherwise 0."""
        (frame_h, frame_w), (grid_h, grid_w) = self.spec.frame_size_px, part_logits_VKhw.shape[2:]
        ratio, remainder = divmod(frame_h, grid_h)
        return ratio if not remainder and ratio * grid_w == frame_w and ratio >= _RATIO_MIN else 0

    def _interpolated(self, part_logits_VKhw: Tensor) -> Tensor:
        return functional.interpolate(part_logits_VKhw, self.spec.frame_size_px, mode="bilinear", align_corners=False)


class _InFrame(NamedTuple):
    """For each part its bit's value where its logit is above its threshold, else 0; and the maxima of all parts."""

    bits_HW: list[Tensor]
    maxima: Maxima


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
        maxima=Maxima(largest_HW.amax(dim=1), largest_HW.amax(dim=0)),
    )


def _multiplied(logits_hw: list[Tensor], thresholds: list[float], ratio: int) -> _InFrame:
    """Upsample and threshold logits of a small grid."""
    blend_RT = torch.tensor(_taps(ratio), dtype=torch.float32)
    bits_HW, row_maxima_H, column_maxima_W = [], [], []
    for bit, (logits, threshold) in enumerate(zip(logits_hw, thresholds, strict=True)):
        stacked_hTW = _widened(logits, ratio)
        rows_H, columns_W = _multiplied_maxima(logits, ratio, stacked_hTW)
        row_maxima_H.append(rows_H)
        column_maxima_W.append(columns_W)
        # A clip of the steeply scaled difference is one pass over the frame; a comparison and its cast are two.
        steep_HW = ((blend_RT * _STEEPNESS) @ (stacked_hTW - threshold if threshold else stacked_hTW)).flatten(0, 1)
        bits_HW.append(steep_HW.clamp(0.0, float(1 << bit)))
    return _InFrame(bits_HW, Maxima(torch.maximum(*row_maxima_H), torch.maximum(*column_maxima_W)))


def _multiplied_maxima(logits_hw: Tensor, ratio: int, widened_hTW: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Largest values per frame row [..., H] and column [..., W] of grids [..., h, w], perhaps widened before."""
    # Between two cell centres an upsampled line is straight, so that its maximum lies next to a centre: two pixels per
    # cell decide the maxima, not all.
    blend_RT = torch.tensor(_taps(ratio), dtype=torch.float32)
    widen_wW = torch.tensor(_widening(logits_hw.shape[-1], ratio), dtype=torch.float32)
    centres = slice((ratio - 1) // 2, ratio // 2 + 1)
    centre_columns_wD = widen_wW.reshape(widen_wW.shape[0], -1, ratio)[:, :, centres].flatten(1)
    stacked_hTW = _widened(logits_hw, ratio) if widened_hTW is None else widened_hTW
    columns_W = (blend_RT[centres] @ stacked_hTW).flatten(-3, -2).amax(dim=-2)
    columns_HD = (blend_RT @ _with_neighbours(logits_hw @ centre_columns_wD)).flatten(-3, -2)
    return columns_HD.amax(dim=-1), columns_W


def _multiplied_frames(logits_hw: Tensor, ratio: int) -> Tensor:
    """Grids [..., h, w] at frame size [..., H, W]."""
    blend_RT = torch.tensor(_taps(ratio), dtype=torch.float32)
    return (blend_RT @ _widened(logits_hw, ratio)).flatten(-3, -2)


def _widened(logits_hw: Tensor, ratio: int) -> Tensor:
    """Grids [..., h, w] with rows of frame width, each between its neighbours [..., h, 3, W]."""
    widen_wW = torch.tensor(_widening(logits_hw.shape[-1], ratio), dtype=torch.float32)
    return _with_neighbours(logits_hw @ widen_wW)


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
    """Each row between the one before and the one behind it [..., h, 3, W]; beyond the ends the outermost repeats."""
    before_hW = torch.cat([rows_hW[..., :1, :], rows_hW[..., :-1, :]], dim=-2)
    behind_hW = torch.cat([rows_hW[..., 1:, :], rows_hW[..., -1:, :]], dim=-2)
    return torch.stack([before_hW, rows_hW, behind_hW], dim=-2)
