"""The camera: exposure, glare, blur, noise, hot pixels, tone curve, 8 bits.

Layout legend: H, W frame pixels, 3 RGB; radiance is linear, 1 saturates after exposure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spacecompile.data.render.cast import Region

Floats: TypeAlias = NDArray[np.float32]

_ADC_LEVELS: Final = 4096
_GLARE_CELL_PX: Final = 8
_BLUR_MARGIN_PX: Final = 8

# Radiance, after exposure, that the brighter parts of the craft should reach in a frame that isn't a hard case.
SEEN_AT: Final = 0.075
_HARD_CASE_SHARE: Final = 0.05
_MAX_EXTRA_EXPOSURE: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """One exposure of one camera.

    Attributes:
        gain: Factor from radiance to sensor level.
        blur_px: Standard deviation of the point spread.
        full_well_electrons: Number of electrons at saturation; sets the shot noise.
        read_noise: Standard deviation of the read noise, in sensor level.
        glare: Share of light beyond saturation that is spread around.
        haze: Veiling light, in sensor level.
        hot_pixels: Number of stuck pixels.
        gamma: Exponent of the tone curve.
        balance_rgb: White balance error per channel.
    """

    gain: float
    blur_px: float
    full_well_electrons: float
    read_noise: float
    glare: float
    haze: float
    hot_pixels: int
    gamma: float
    balance_rgb: tuple[float, float, float]


def random_exposure(rng: np.random.Generator, craft_luminance_N: Floats, frame_size_px: int) -> Exposure:
    """Draws an exposure; a craft that would stay invisible is exposed longer, but for a few hard cases."""
    gain = 1.2 * float(np.exp(rng.normal(0, 0.38)))
    is_hard = rng.uniform() < _HARD_CASE_SHARE
    wanted = rng.uniform(SEEN_AT, 5 * SEEN_AT)
    bright = float(np.quantile(craft_luminance_N, 0.97))
    if not is_hard and bright * gain < wanted:
        gain *= min(wanted / max(bright * gain, 1e-6), _MAX_EXTRA_EXPOSURE)
    is_soft = rng.uniform() < 0.10
    hot_density = rng.uniform(0, 2.5e-5) if rng.uniform() < 0.6 else 0.0
    red, green, blue = np.exp(rng.normal(0, 0.03, 3))
    return Exposure(
        gain=gain,
        blur_px=float(rng.uniform(1.1, 2.0) if is_soft else rng.uniform(0.35, 0.95)),
        full_well_electrons=float(np.exp(rng.uniform(np.log(2500), np.log(20000)))),
        read_noise=float(np.exp(rng.uniform(np.log(0.0002), np.log(0.0022)))),
        glare=float(rng.uniform(0.002, 0.02)),
        haze=float(rng.uniform(0.0, 0.0015)) if rng.uniform() < 0.25 else 0.0,
        hot_pixels=int(hot_density * frame_size_px**2),
        gamma=float(rng.uniform(1.8, 2.3)),
        balance_rgb=(float(red), float(green), float(blue)),
    )


def expose(rng: np.random.Generator, radiance_HW3: Floats, region: Region, exposure: Exposure) -> NDArray[np.uint8]:
    """Turns radiance into the frame's 8-bit RGB.

    Args:
        rng: Source of the noise.
        radiance_HW3: Radiance; changed in place.
        region: Part of the frame with the craft; only there is the picture sharp enough to need a blur.
        exposure: Exposure of the camera.

    Returns:
        uint8 [H, W, 3].
    """
    level_HW3 = radiance_HW3
    level_HW3 *= np.array(exposure.balance_rgb, dtype=np.float32) * np.float32(exposure.gain)
    level_HW3 += _glare(level_HW3, exposure)
    np.minimum(level_HW3, np.float32(3.0), out=level_HW3)
    _blur(level_HW3, region, exposure.blur_px)
    noise_HW3 = rng.standard_normal(level_HW3.shape, dtype=np.float32)
    variance_HW3 = level_HW3 * np.float32(1 / exposure.full_well_electrons) + np.float32(exposure.read_noise**2)
    level_HW3 += noise_HW3 * np.sqrt(variance_HW3)
    level_HW3 += np.float32(exposure.haze)
    row, column = rng.integers(0, level_HW3.shape[0], (2, exposure.hot_pixels))
    level_HW3[row, column, rng.integers(0, 3, exposure.hot_pixels)] += rng.uniform(0.05, 0.9, exposure.hot_pixels)
    curve = (np.linspace(0, 1, _ADC_LEVELS) ** (1 / exposure.gamma) * 255 + 0.5).astype(np.uint8)
    counts_HW3 = np.clip(level_HW3 * np.float32(_ADC_LEVELS - 1), 0, _ADC_LEVELS - 1).astype(np.uint16)
    frame_HWC: NDArray[np.uint8] = curve[counts_HW3]
    return frame_HWC


def _glare(level_HW3: Floats, exposure: Exposure) -> Floats:
    """Soft halo around what is far beyond saturation."""
    height, width = level_HW3.shape[:2]
    rows, columns = height // _GLARE_CELL_PX, width // _GLARE_CELL_PX
    excess = np.clip(level_HW3[: rows * _GLARE_CELL_PX, : columns * _GLARE_CELL_PX] - 1, 0, 30)
    if not excess.any():
        return np.zeros((1, 1, 3), dtype=np.float32)
    coarse = excess.reshape(rows, _GLARE_CELL_PX, columns, _GLARE_CELL_PX, 3).mean(axis=(1, 3))
    halo = np.zeros_like(coarse)
    for sigma_cells, weight in ((0.8, 8.0), (3.0, 3.0), (9.0, 1.5)):
        halo += _gaussian(coarse, sigma_cells) * np.float32(weight * exposure.glare)
    channels = [
        Image.fromarray(np.ascontiguousarray(halo[..., channel])).resize((width, height), Image.Resampling.BILINEAR)
        for channel in range(3)
    ]
    return np.stack([np.asarray(channel, dtype=np.float32) for channel in channels], axis=-1)


def _blur(level_HW3: Floats, region: Region, sigma_px: float) -> None:
    height, width = level_HW3.shape[:2]
    rows = slice(max(region.y_min - _BLUR_MARGIN_PX, 0), min(region.y_max + _BLUR_MARGIN_PX, height))
    columns = slice(max(region.x_min - _BLUR_MARGIN_PX, 0), min(region.x_max + _BLUR_MARGIN_PX, width))
    level_HW3[rows, columns] = _gaussian(level_HW3[rows, columns], sigma_px)


def _gaussian(picture_HW3: Floats, sigma_px: float) -> Floats:
    """Separable Gaussian with the edge repeated."""
    reach = max(int(np.ceil(2.5 * sigma_px)), 1)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma_px**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        padding = [(reach, reach) if other == axis else (0, 0) for other in range(3)]
        padded = np.pad(picture_HW3, padding, mode="edge")
        length = picture_HW3.shape[axis]
        blurred = np.zeros_like(picture_HW3)
        for offset, weight in zip(range(2 * reach + 1), kernel, strict=True):
            window = (
                (slice(offset, offset + length), slice(None))
                if axis == 0
                else (slice(None), slice(offset, offset + length))
            )
            blurred += padded[window] * weight
        picture_HW3 = blurred
    return picture_HW3
