"""Segmentation heads beyond smp's own.

Layout legend: N batch, C channels, K parts, h w decoder rows and columns.
"""

from __future__ import annotations

import torch
from torch import nn

from spacecompile.contract import PARTS

BUILD_ERRORS = (
    *(RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError, IndexError),
    *(NotImplementedError, ImportError, ZeroDivisionError),
)
"""What smp and timm raise for a combination that they were not made for."""

SHUFFLE = 2
"""Part logits per decoder pixel along each axis: at stride 2 instead of SegFormer's 4."""

_SHUFFLED_CHANNELS = 10
"""Features per part-logit pixel. With SegFormer's 128 channels the head then has 5 k parameters more than smp's."""


def shuffle_head(in_channels: int) -> nn.Sequential:
    """A head that gives part logits at twice the decoder's resolution.

    Pixel shuffle (Shi et al. 2016, arXiv:1609.05158) lets each decoder pixel say four different things, where
    upsampling its two logits could only blend them. Both are laid out by half-pixel centres, so that the sealed graph's
    one resize to the frame is as right as with smp's head.

    Args:
        in_channels: Number of channels of the decoder's output.

    Returns:
        A module from [N, C, h, w] to [N, K, 2 h, 2 w].
    """
    spread = nn.Conv2d(in_channels, _SHUFFLED_CHANNELS * SHUFFLE**2, kernel_size=1)
    _start_without_checkerboard(spread)
    mix = nn.Conv2d(_SHUFFLED_CHANNELS, len(PARTS), kernel_size=3, padding=1)
    return nn.Sequential(spread, nn.PixelShuffle(SHUFFLE), nn.ReLU(), mix)


@torch.no_grad()
def _start_without_checkerboard(convolution: nn.Conv2d) -> None:
    """Give the four pixels that come from one decoder pixel the same weights at first (Aitken et al. 2017, ICNR)."""
    for tensor in (convolution.weight, convolution.bias):
        assert tensor is not None  # made with a bias
        tensor.copy_(tensor[:: SHUFFLE**2].repeat_interleave(SHUFFLE**2, dim=0))
