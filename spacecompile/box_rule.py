"""From part logits to one box: the rule, and the head that may correct it. Both travel in the model spec."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from spacecompile.errors import UsageError
from spacecompile.record import Record


class BoxRule(Record):
    """How the sealed graph turns part logits into one box.

    The box of the pixels is grown to each side by a constant and by shares of its own width (left, right) or height
    (top, bottom), and then clipped to the frame.

    Attributes:
        threshold: Part probability above which a pixel counts for the box. Apart from the mask's threshold.
        margins_px: Growth to the left, top, right and bottom, in frame pixels.
        margin_shares: Further growth, as a share of the box of the pixels.
        support_px: Pixels above the threshold that a row or column needs to count; above 1 it keeps stray pixels out.
        softness: 0 for the outermost rows and columns that count. Above 0 edges are soft: each row and column counts
            with probability sigmoid((largest logit - threshold's logit) / softness), and an edge is the expected
            position of the first that does, a fraction of a pixel.
        views: Where a graph has D4 views: the box of their merged mask, or the median of their boxes.
        residual: Whether the network's box head moves the sides; its spec then has a `box_head`.
    """

    threshold: float = 0.5
    margins_px: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    margin_shares: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    support_px: int = 1
    softness: float = 0.0
    views: Literal["mask", "median"] = "mask"
    residual: bool = False

    def __post_init__(self) -> None:
        """Check what one value alone can't tell.

        Raises:
            UsageError: If the rule makes no sense.
        """
        if not all(map(math.isfinite, (*self.margins_px, *self.margin_shares))):
            raise UsageError(
                f"box margins are {self.margins_px} px and shares {self.margin_shares}; all must be finite. Calibrate "
                "the checkpoint again."
            )
        if not 0 < self.threshold < 1 or self.support_px < 1 or not 0 <= self.softness < math.inf:
            raise UsageError(
                f"box threshold is {self.threshold}, support {self.support_px} px, softness {self.softness}; the first "
                "must lie between 0 and 1, both excluded, support be 1 or more and softness finite, 0 or more."
            )
        if self.softness and self.support_px > 1:
            raise UsageError(
                f"box softness is {self.softness} with support of {self.support_px} px; soft edges know no support. "
                "Leave one of them out."
            )

    def scaled(self, scale_xy: tuple[float, float]) -> BoxRule:
        """The same rule for a frame that is as many times as wide and as high."""
        left, top, right, bottom = self.margins_px
        scale_x, scale_y = scale_xy
        return msgspec.structs.replace(
            self,
            margins_px=(left * scale_x, top * scale_y, right * scale_x, bottom * scale_y),
            support_px=max(1, round(self.support_px * min(scale_xy))),
        )


class BoxHead(Record):
    """Shape of the regression head: how far each side of the box lies outside of where the mask puts it.

    Attributes:
        channels: Between its two layers.
        bound: Largest residual, as a share of the box's width or height.
    """

    channels: int = 32
    bound: float = 0.25

    def __post_init__(self) -> None:
        """Check the shape once.

        Raises:
            UsageError: If there is no such head.
        """
        if self.channels < 1 or not 0 < self.bound <= 1:
            raise UsageError(
                f"box head has {self.channels} channels and bound {self.bound}; it needs at least 1 channel, and a "
                "bound above 0, at most 1."
            )
