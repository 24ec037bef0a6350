"""Periodic noise tiles: foil wrinkles for the craft, clouds and continents for the Earth.

They are constants of the renderer: seeded, built once per process, the same in every worker.
Layout legend: T tile rows and columns; 2 slopes in u, v.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]

TILE_PX: Final = 512
CRINKLE_TILE_M: Final = 1.3
_NUM_CRINKLE_LEVELS: Final = 6
_TEXTURE_SEED: Final = 20240607


@cache
def fractal_tile(name_seed: int, slope: float) -> NDArray[np.float32]:
    """Periodic noise [T, T], mean 0, standard deviation 1, with an amplitude spectrum of 1 / frequency ** slope."""
    rng = np.random.default_rng([_TEXTURE_SEED, name_seed])
    white = rng.standard_normal((TILE_PX, TILE_PX))
    frequency = np.hypot(np.fft.fftfreq(TILE_PX)[:, None], np.fft.rfftfreq(TILE_PX)[None]) * TILE_PX
    frequency[0, 0] = np.inf
    tile = np.fft.irfft2(np.fft.rfft2(white) / frequency**slope, s=(TILE_PX, TILE_PX))
    scaled: NDArray[np.float32] = ((tile - tile.mean()) / tile.std()).astype(np.float32)
    return scaled


@cache
def crinkle_levels() -> tuple[NDArray[np.float32], ...]:
    """Foil slopes [T, T, 2] with unit standard deviation, then the same at half resolution, and so on.

    Crumpled foil is made of flat facets between straight creases: a sum of triangle waves has exactly that, and a
    slow warp of its coordinates bends the creases.
    """
    rng = np.random.default_rng([_TEXTURE_SEED, 1])
    axis = np.arange(TILE_PX) / TILE_PX
    warp_u, warp_v = (0.018 * fractal_tile(seed, 2.2) for seed in (11, 12))
    u, v = axis[None, :] + warp_u, axis[:, None] + warp_v
    slopes = np.zeros((TILE_PX, TILE_PX, 2), dtype=np.float32)
    for _ in range(26):
        frequency = np.exp(rng.uniform(np.log(2.0), np.log(26.0)))
        angle = rng.uniform(0, 2 * np.pi)
        k_u, k_v = np.rint(frequency * np.cos(angle)), np.rint(frequency * np.sin(angle))
        length = max(np.hypot(k_u, k_v), 1.0)
        wave = np.sign(np.sin(2 * np.pi * (k_u * u + k_v * v + rng.uniform())))
        slopes += (wave[..., None] * np.array([k_u, k_v]) / length**1.25).astype(np.float32)
    pillow = fractal_tile(13, 1.9)
    slopes += 5.0 * np.stack([np.roll(pillow, -6, 1) - pillow, np.roll(pillow, -6, 0) - pillow], axis=-1)
    slopes /= slopes.std()
    levels = [slopes.astype(np.float32)]
    for _ in range(_NUM_CRINKLE_LEVELS - 1):
        half = levels[-1].shape[0] // 2
        levels.append(levels[-1].reshape(half, 2, half, 2, 2).mean(axis=(1, 3)))
    return tuple(levels)


def sample_tile(tile: NDArray[np.float32], u: Floats, v: Floats) -> Floats:
    """Bilinear, periodic lookup; one unit of u or v is a whole tile."""
    x, y = u * TILE_PX, v * TILE_PX
    x_floor, y_floor = np.floor(x), np.floor(y)
    x_part, y_part = x - x_floor, y - y_floor
    column, row = x_floor.astype(np.int32) % TILE_PX, y_floor.astype(np.int32) % TILE_PX
    right, below = (column + 1) % TILE_PX, (row + 1) % TILE_PX
    top = tile[row, column] * (1 - x_part) + tile[row, right] * x_part
    bottom = tile[below, column] * (1 - x_part) + tile[below, right] * x_part
    sampled: Floats = top * (1 - y_part) + bottom * y_part
    return sampled


def smoothstep(low: float, high: float, value: Floats) -> Floats:
    """0 below `low`, 1 above `high`, a smooth S between."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    smooth: Floats = t * t * (3 - 2 * t)
    return smooth
