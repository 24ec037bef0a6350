"""Augmentation of whole batches: one resampling for flips, quarter turns, rotation, scale and shift together.

Layout legend: N frames, C channels, H W input rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from spacecompile.train.recipe import Augmentation


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Ranges that random values are drawn from, uniformly.

    Attributes:
        flips: Mirror and turn by quarters (half turns only when the input is not square).
        rotated_share: Share of frames that are rotated, scaled and shifted at all; the others keep exact pixels.
        rotation_deg: Largest angle either way.
        scale: Smallest and largest magnification.
        shift: Largest shift either way, as a share of the input's size.
        gain: Smallest and largest exposure factor, drawn on a logarithmic scale.
        noise: Largest standard deviation of Gaussian noise, in grey levels of 255.
    """

    flips: bool = True
    rotated_share: float = 0.5
    rotation_deg: float = 15.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    gain: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0


SETTINGS: dict[Augmentation, AugmentSettings] = {
    "none": AugmentSettings(flips=False, rotated_share=0.0),
    "light": AugmentSettings(),
    "medium": AugmentSettings(rotated_share=0.75, scale=(0.75, 1.3), shift=0.1, gain=(0.6, 1.6), noise=6.0),
}


def augmented(pixels_NCHW: Tensor, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Augment frames and coverage alike; exposure and noise touch RGB only.

    Args:
        pixels_NCHW: Float, RGB and coverage, 0 to 255.
        settings: What to draw.
        generator: On the CPU, source of every random number but the noise's pixels.

    Returns:
        Same shape; what comes from outside the frame is black and uncovered.
    """
    frames = pixels_NCHW.shape[0]
    size_px = (pixels_NCHW.shape[2], pixels_NCHW.shape[3])
    theta_N23 = random_affine(frames, size_px=size_px, settings=settings, generator=generator)
    grid_NHW2 = functional.affine_grid(theta_N23.to(pixels_NCHW.device), list(pixels_NCHW.shape), align_corners=False)
    moved_NCHW = functional.grid_sample(
        pixels_NCHW, grid_NHW2, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return _exposed(moved_NCHW, settings, generator)


def random_affine(
    frames: int, *, size_px: tuple[int, int], settings: AugmentSettings, generator: torch.Generator
) -> Tensor:
    """One map from output to input coordinates per frame, in the -1..1 coordinates of `affine_grid`.

    Returns:
        float32 [N, 2, 3].
    """

    def uniform_N(low: float, high: float) -> Tensor:
        return torch.rand(frames, generator=generator) * (high - low) + low

    is_moved_N = torch.rand(frames, generator=generator) < settings.rotated_share
    quarter = 1 if size_px[0] == size_px[1] else 2
    turns_N = torch.randint(0, 4 // quarter, (frames,), generator=generator) * quarter * settings.flips
    mirror_N = 1.0 - 2.0 * torch.randint(0, 2, (frames,), generator=generator) * settings.flips
    angle_N = uniform_N(-settings.rotation_deg, settings.rotation_deg).deg2rad() * is_moved_N
    scale_N = torch.where(is_moved_N, uniform_N(*settings.scale), 1.0)
    shift_N2 = torch.stack([uniform_N(-settings.shift, settings.shift) for _ in range(2)], 1) * is_moved_N[:, None]

    # Quarter turns as whole numbers: cos(pi / 2) in float32 would blur exact pixels.
    cos_turn_N, sin_turn_N = (
        (torch.tensor(table)[turns_N]) for table in ([1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, -1.0])
    )
    cos_N = (cos_turn_N * angle_N.cos() - sin_turn_N * angle_N.sin()) / scale_N
    sin_N = (sin_turn_N * angle_N.cos() + cos_turn_N * angle_N.sin()) / scale_N
    aspect = size_px[0] / size_px[1]
    row_x_N3 = torch.stack([cos_N * mirror_N, -sin_N * aspect, 2 * shift_N2[:, 0]], 1)
    row_y_N3 = torch.stack([sin_N / aspect * mirror_N, cos_N, 2 * shift_N2[:, 1]], 1)
    return torch.stack([row_x_N3, row_y_N3], 1)


def _exposed(pixels_NCHW: Tensor, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    frames = pixels_NCHW.shape[0]
    if settings.gain != (1.0, 1.0):
        low, high = (math.log(gain) for gain in settings.gain)
        gain_N = (torch.rand(frames, generator=generator) * (high - low) + low).exp()
        pixels_NCHW[:, :3] *= gain_N.to(pixels_NCHW.device)[:, None, None, None]
    if settings.noise:
        deviation_N = (torch.rand(frames, generator=generator) * settings.noise).to(pixels_NCHW.device)
        noise_NCHW = torch.randn_like(pixels_NCHW[:, :3])
        pixels_NCHW[:, :3] += noise_NCHW * deviation_N[:, None, None, None]
    if settings.gain != (1.0, 1.0) or settings.noise:
        pixels_NCHW[:, :3].clamp_(0, 255)
    return pixels_NCHW
