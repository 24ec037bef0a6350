"""From the part logits' maxima per row and column to one box, under any rule.

Everything works on one picture or on a stack of views, whose axis comes first.

Layout legend: V views, H W frame rows and columns, I either of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spacecompile.box_rule import BoxRule
from spacecompile.contract import ModelSpec
from spacecompile.network.views import median

_EXPONENT_MAX = 30.0
"""exp(-30) is 1e-13: a row of this certainty ends every sum after it."""


def logit(probability: float) -> float:
    """Inverse of the sigmoid. Logits are compared with it, so that no sigmoid of the whole frame is computed."""
    return math.log(probability / (1 - probability))


class Maxima(NamedTuple):
    """Part logits at frame size, as far as a box asks.

    Attributes:
        rows: Largest logit of any part in each row [..., H].
        columns: Largest logit of any part in each column [..., W].
        row_px: Number of pixels above the box threshold in each row, as floats; None where one pixel is enough.
        column_px: Number of pixels above the box threshold in each column, as floats; None where one pixel is enough.
    """

    rows: Tensor
    columns: Tensor
    row_px: Tensor | None = None
    column_px: Tensor | None = None


class BoxOfMaxima(nn.Module):
    """The box rule of a spec."""

    row_H: Tensor
    column_W: Tensor
    growth_xyxy: Tensor
    growth_shares_xyxy: Tensor
    outwards_xyxy: Tensor
    limits_xyxy: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.rule: BoxRule = spec.box
        self.threshold = logit(spec.box.threshold) - spec.part_logit_offset
        height, width = spec.frame_size_px
        outwards_xyxy = torch.tensor([-1.0, -1.0, 1.0, 1.0])
        self.register_buffer("row_H", torch.arange(height, dtype=torch.float32))
        self.register_buffer("column_W", torch.arange(width, dtype=torch.float32))
        self.register_buffer("outwards_xyxy", outwards_xyxy)
        self.register_buffer("growth_xyxy", outwards_xyxy * torch.tensor(spec.box.margins_px))
        self.register_buffer("growth_shares_xyxy", outwards_xyxy * torch.tensor(spec.box.margin_shares))
        self.register_buffer("limits_xyxy", torch.tensor([width, height, width, height], dtype=torch.float32))

    def forward(self, maxima: Maxima, residuals: Tensor | None = None) -> Tensor:
        """Smallest box around what counts, grown and clipped.

        Args:
            maxima: Maxima of one picture, or of V views.
            residuals: The box head's growth per side [..., 4], as a share of the box's width or height.

        Returns:
            float32 [..., 4], half-open xyxy in frame pixels, all zero where nothing is above the threshold.
        """
        top, bottom = self._first_and_end(maxima.rows, maxima.row_px, self.row_H)
        left, right = self._first_and_end(maxima.columns, maxima.column_px, self.column_W)
        tight_xyxy = torch.stack([left, top, right, bottom], dim=-1)
        grown_xyxy = tight_xyxy + self._growth_xyxy(tight_xyxy, residuals)
        bounded_xyxy = torch.minimum(grown_xyxy, self.limits_xyxy).clamp(min=0)
        low_xy, high_xy = bounded_xyxy.chunk(2, dim=-1)
        # Calibrated margins may be negative; a small box then ends where it begins, and not before.
        ordered_xyxy = torch.cat([low_xy, torch.maximum(low_xy, high_xy)], dim=-1)
        return ordered_xyxy * self._is_found(maxima, bottom).unsqueeze(-1)

    def _growth_xyxy(self, tight_xyxy: Tensor, residuals: Tensor | None) -> Tensor:
        """Constants, which is all that most rules have, then shares of the box's size."""
        if residuals is None and not any(self.rule.margin_shares):
            return self.growth_xyxy
        shares_xyxy = self.growth_shares_xyxy
        if residuals is not None:
            shares_xyxy = shares_xyxy + residuals * self.outwards_xyxy
        low_xy, high_xy = tight_xyxy.chunk(2, dim=-1)
        size_xy = high_xy - low_xy
        return self.growth_xyxy + torch.cat([size_xy, size_xy], dim=-1) * shares_xyxy

    def _first_and_end(self, largest_I: Tensor, count_I: Tensor | None, index_I: Tensor) -> tuple[Tensor, Tensor]:
        if self.rule.softness:
            return _soft_first_and_end((largest_I - self.threshold) / self.rule.softness)
        if count_I is None:
            return _first_and_end(largest_I > self.threshold, index_I)
        # Counts are floats: halfway between whole numbers no rounding decides.
        return _first_and_end(count_I > self.rule.support_px - 0.5, index_I)

    def _is_found(self, maxima: Maxima, bottom: Tensor) -> Tensor:
        """1 where a pixel is set, 0 where none is."""
        if self.rule.softness:
            return (maxima.rows.amax(dim=-1) > self.threshold).to(torch.float32)
        # Without a row `bottom` is 0, and nowhere else; columns may lack support where rows have it.
        found = (bottom > 0).to(torch.float32)
        if maxima.column_px is None:
            return found
        return found * (maxima.column_px.amax(dim=-1) > self.rule.support_px - 0.5).to(torch.float32)


def _first_and_end(hit_I: Tensor, index_I: Tensor) -> tuple[Tensor, Tensor]:
    """First hit and one past the last, as floats: (length, 0) without a hit."""
    length = float(index_I.shape[0])
    # Without NonZero, whose result has no fixed shape: a place without a hit gets a value that never wins.
    first = torch.where(hit_I, index_I, length).amin(dim=-1)
    end = torch.where(hit_I, index_I + 1, 0.0).amax(dim=-1)
    return first, end


def _soft_first_and_end(logits_I: Tensor) -> tuple[Tensor, Tensor]:
    """Expected position of the first row that counts, and of the end of the last, where each counts on its own."""
    # The first one's expected position is sum_k prod_{j<=k} (1 - p_j), and -log(1 - p) is softplus(logit).
    weights_I = torch.log(1 + torch.exp(logits_I.clamp(max=_EXPONENT_MAX)))
    before = torch.exp(-torch.cumsum(weights_I, dim=-1)).sum(dim=-1)
    behind = torch.exp(-torch.cumsum(torch.flip(weights_I, (-1,)), dim=-1)).sum(dim=-1)
    return before, float(logits_I.shape[-1]) - behind


def middle_box(boxes_V4: Tensor) -> Tensor:
    """Median of each side over the views [4], all zero unless more than half of them have a box.

    A view without one is all zero. With as many of these as of others the two middle values are a side and a zero,
    whose mean is a place where nobody saw anything.
    """
    has_box_V = (boxes_V4.amax(dim=1) > 0).to(torch.float32)
    is_majority = (has_box_V.sum() > boxes_V4.shape[0] / 2).to(torch.float32)
    return median(boxes_V4).squeeze(0) * is_majority
