"""From camera frame to network input: one definition, used by training and inside the sealed graph.

Layout legend: N batch, C channels (RGB), H W frame or input rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def pooling_ratio(frame_px: int, input_px: int) -> int:
    """Whole number of samples that one input pixel averages along one axis; half rounds up, at least 1."""
    return max(1, (2 * frame_px + input_px) // (2 * input_px))


def input_from_frame(frames_NCHW: Tensor, input_size_px: tuple[int, int]) -> Tensor:
    """Reduce frames to the input size.

    A whole ratio is plain area averaging. Any other ratio is first stretched to the nearest whole multiple of the
    input with half-pixel bilinear sampling, then averaged: pooling first would drop the last rows and columns and
    shift the picture against the mask, and an antialiased resize has no TensorRT counterpart.

    Args:
        frames_NCHW: Frames as floats of any value range, which is kept.
        input_size_px: Size of the result as (height, width).

    Returns:
        Float [N, C, height, width]; the frames themselves when they already have that size.
    """
    frame_size_px = (frames_NCHW.shape[2], frames_NCHW.shape[3])
    ratios = (
        pooling_ratio(frame_size_px[0], input_size_px[0]),
        pooling_ratio(frame_size_px[1], input_size_px[1]),
    )
    stretched_px = (ratios[0] * input_size_px[0], ratios[1] * input_size_px[1])
    if stretched_px != frame_size_px:
        frames_NCHW = functional.interpolate(
            frames_NCHW, stretched_px, mode="bilinear", align_corners=False, antialias=False
        )
    return functional.avg_pool2d(frames_NCHW, ratios) if ratios != (1, 1) else frames_NCHW


def normalised(input_NCHW: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Centre and scale an input for the network.

    Args:
        input_NCHW: Input as floats, 0 to 255.
        mean: Mean per channel of values scaled to 0..1.
        std: Standard deviation per channel of values scaled to 0..1.

    Returns:
        (input / 255 - mean) / std, computed as one multiply and one add.
    """
    scale_C = torch.tensor([1 / (255 * value) for value in std], dtype=input_NCHW.dtype, device=input_NCHW.device)
    offset_C = torch.tensor(
        [-centre / spread for centre, spread in zip(mean, std, strict=True)],
        dtype=input_NCHW.dtype,
        device=input_NCHW.device,
    )
    return input_NCHW * scale_C[:, None, None] + offset_C[:, None, None]
