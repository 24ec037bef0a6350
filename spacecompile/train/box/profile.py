"""What a box needs of the part logits of a frame, and the box that a rule makes of it.

An implementation of its own beside the sealed graph's, in NumPy, because calibration asks for hundreds of rules; tests
hold the two together.

Layout legend: K parts, V views, H W frame rows and columns, h w decoder rows and columns, I rows or columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spacecompile.box_rule import BoxRule
from spacecompile.contract import ModelSpec

_LOGIT_MAX = 30.0
OUTWARDS_XYXY = np.array([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class BoxProfile:
    """Part logits along both axes of the frame.

    Attributes:
        rows_H: Largest part logit of each frame row.
        columns_W: The same of each column.
        supported: By a number of pixels: the logit that so many of each row, and of each column, reach.
        residuals_4: Residuals of the box head.
        views: Profile of each D4 view by itself, where there are any; the rest is of the merged ones.
    """

    rows_H: NDArray[np.float32]
    columns_W: NDArray[np.float32]
    supported: Mapping[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=dict)
    residuals_4: NDArray[np.float32] | None = None
    views: tuple[BoxProfile, ...] = ()

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width) of the frame."""
        return self.rows_H.size, self.columns_W.size


def logit(probability: float) -> float:
    """The logit that a probability threshold is: comparing before the sigmoid saves computing it."""
    return math.log(probability / (1 - probability))


def frame_logits(part_logits_VKhw: Tensor, spec: ModelSpec, size_px: tuple[int, ...]) -> Tensor:
    """Part logits at the size of a frame [V, K, H, W], upsampled as the sealed graph does."""
    if spec.mask_upsampling == "align_corners":
        part_logits_VKhw = functional.interpolate(
            part_logits_VKhw, spec.input_size_px, mode="bilinear", align_corners=True
        )
    return functional.interpolate(part_logits_VKhw.float(), list(size_px), mode="bilinear", align_corners=False)


def profile_of(
    logits_KHW: Tensor,
    *,
    supports_px: Sequence[int] = (),
    residuals_4: Tensor | None = None,
    views: tuple[BoxProfile, ...] = (),
) -> BoxProfile:
    """Profile of part logits at frame size.

    Args:
        logits_KHW: Part logits of the frame.
        supports_px: Numbers of pixels, above one, that a rule may ask for.
        residuals_4: Residuals of the box head.
        views: Profiles of the D4 views.
    """
    strongest_HW = logits_KHW.amax(0)
    supported = {}
    if supports_px:
        most = max(supports_px)
        rows_Hk, columns_Wk = (
            torch.topk(values_II, min(most, values_II.shape[1]), dim=1).values
            for values_II in (strongest_HW, strongest_HW.T.contiguous())
        )
        supported = {
            px: (rows_Hk[:, px - 1].cpu().numpy(), columns_Wk[:, px - 1].cpu().numpy())
            for px in supports_px
            if px <= min(strongest_HW.shape)
        }
    return BoxProfile(
        rows_H=strongest_HW.amax(1).cpu().numpy(),
        columns_W=strongest_HW.amax(0).cpu().numpy(),
        supported=supported,
        residuals_4=None if residuals_4 is None else residuals_4.float().cpu().numpy(),
        views=views,
    )


def box_from_profile(profile: BoxProfile, rule: BoxRule, frame_size_px: tuple[int, int]) -> NDArray[np.float64]:
    """The box that a rule makes of a frame.

    Args:
        profile: Profile of a frame of any size.
        rule: In pixels of a frame of `frame_size_px`; they are scaled to the profile's frame.
        frame_size_px: (height, width) that the rule is for.

    Returns:
        Half-open xyxy in pixels of the profile's frame; all zero when no pixel is above the threshold.
    """
    if profile.views and rule.views == "median":
        return median_box(np.array([box_from_profile(view, rule, frame_size_px) for view in profile.views]))
    height_px, width_px = profile.size_px
    rule = rule.scaled((width_px / frame_size_px[1], height_px / frame_size_px[0]))
    tight_xyxy = tight_box(profile, rule)
    if not tight_xyxy.any():
        return tight_xyxy
    shares_4 = np.asarray(rule.margin_shares)
    if rule.residual and profile.residuals_4 is not None:
        shares_4 = shares_4 + profile.residuals_4
    return grown_box(tight_xyxy, np.asarray(rule.margins_px), shares_4, (height_px, width_px))


def median_box(boxes_V4: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of each side over the views of one frame or of many, all zero unless more than half of them have a box.

    Args:
        boxes_V4: [..., V, 4]; a view without a box is all zero.
    """
    is_majority = 2 * boxes_V4.any(axis=-1).sum(axis=-1) > boxes_V4.shape[-2]
    return np.asarray(np.median(boxes_V4, axis=-2) * is_majority[..., None], np.float64)


def grown_box(
    tight_xyxy: NDArray[np.float64],
    margins_px: NDArray[np.float64],
    shares: NDArray[np.float64],
    size_px: tuple[int, int],
) -> NDArray[np.float64]:
    """One box or many, grown to each side by constants and shares of their own size, clipped to the frame."""
    extents_xyxy = np.concatenate([tight_xyxy[..., 2:] - tight_xyxy[..., :2]] * 2, axis=-1)
    grown_xyxy = tight_xyxy + OUTWARDS_XYXY * (margins_px + shares * extents_xyxy)
    clipped_xyxy = np.clip(grown_xyxy, 0, np.array([size_px[1], size_px[0]] * 2, np.float64))
    clipped_xyxy[..., 2:] = np.maximum(clipped_xyxy[..., 2:], clipped_xyxy[..., :2])
    return np.asarray(clipped_xyxy, np.float64)


def tight_box(profile: BoxProfile, rule: BoxRule) -> NDArray[np.float64]:
    """The box of what counts, without margins; all zero when nothing does.

    Args:
        profile: Profile of a frame.
        rule: In its pixels.
    """
    threshold = logit(rule.threshold)
    rows_H, columns_W = profile.rows_H, profile.columns_W
    if rule.support_px > 1 and profile.supported:
        # Frames of another size than the spec's may ask for a support that was not kept.
        nearest_px = min(profile.supported, key=lambda px: abs(px - rule.support_px))
        rows_H, columns_W = profile.supported[nearest_px]
    rows, columns = np.flatnonzero(rows_H > threshold), np.flatnonzero(columns_W > threshold)
    if not (rows.size and columns.size):
        return np.zeros(4)
    if rule.softness:
        left, right = _soft_ends((columns_W - threshold) / rule.softness)
        top, bottom = _soft_ends((rows_H - threshold) / rule.softness)
        return np.array([left, top, right, bottom])
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def _soft_ends(logits_I: NDArray[np.float32]) -> tuple[float, float]:
    """Expected first position, and the end of the last, where each counts with the sigmoid of its logit."""
    weights_I = np.log1p(np.exp(np.minimum(logits_I.astype(np.float64), _LOGIT_MAX)))
    first, last = (np.exp(-np.cumsum(weights)).sum() for weights in (weights_I, weights_I[::-1]))
    return float(first), float(logits_I.size - last)
