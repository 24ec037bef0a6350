"""What is behind the craft: black space, stars, the Earth's limb, or the Earth from edge to edge.

Radiance is linear RGB on the same scale as `shade`. Layout legend: B background rows and columns (at most 512: the
sky is smooth), H, W frame pixels, X Cartesian coordinates (3), 3 RGB.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spacecompile.data.render.scene import Scene
from spacecompile.data.render.texture import fractal_tile, sample_tile, smoothstep

Floats: TypeAlias = NDArray[np.float32]

_MAX_SKY_PX: Final = 512

_OCEAN_RGB: Final = np.array([0.014, 0.036, 0.085], dtype=np.float32)
_FOREST_RGB: Final = np.array([0.050, 0.075, 0.030], dtype=np.float32)
_DESERT_RGB: Final = np.array([0.260, 0.190, 0.115], dtype=np.float32)
_CLOUD_RGB: Final = np.array([0.70, 0.72, 0.74], dtype=np.float32)
_HAZE_RGB: Final = np.array([0.19, 0.33, 0.62], dtype=np.float32)
_DUSK_RGB: Final = np.array([0.60, 0.28, 0.10], dtype=np.float32)
# Scale height of the visible glow in Earth radii (about 25 km: Rayleigh and ozone as seen edge-on).
_GLOW_HEIGHT_RADII: Final = 0.004
_HAZE_DEPTH: Final = 0.14


def draw_background(rng: np.random.Generator, scene: Scene, frame_size_px: int) -> Floats:
    """Radiance [H, W, 3] behind the craft."""
    if scene.background in ("limb", "earth"):
        frame_HW3 = _enlarged(_earth(rng, scene, min(frame_size_px, _MAX_SKY_PX), frame_size_px), frame_size_px)
    else:
        frame_HW3 = np.zeros((frame_size_px, frame_size_px, 3), dtype=np.float32)
    if scene.background in ("stars", "limb"):
        _add_stars(rng, frame_HW3, is_faint=scene.background == "limb")
    return frame_HW3


def _enlarged(sky_BB3: Floats, frame_size_px: int) -> Floats:
    if sky_BB3.shape[0] == frame_size_px:
        return sky_BB3
    channels = [
        Image.fromarray(np.ascontiguousarray(sky_BB3[..., channel])).resize(
            (frame_size_px, frame_size_px), Image.Resampling.BILINEAR
        )
        for channel in range(3)
    ]
    return np.stack([np.asarray(channel, dtype=np.float32) for channel in channels], axis=-1)


def _earth(rng: np.random.Generator, scene: Scene, sky_px: int, frame_size_px: int) -> Floats:
    axis = ((np.arange(sky_px, dtype=np.float64) + 0.5) / sky_px - 0.5) * frame_size_px / scene.focal_px
    rays = np.stack([*np.meshgrid(axis, axis), np.ones((sky_px, sky_px))], axis=-1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    centre_X = scene.earth_X.astype(np.float64) * scene.earth_distance_radii
    along = rays @ centre_X
    miss_squared = scene.earth_distance_radii**2 - along**2
    is_ground = (miss_squared < 1) & (along > 0)
    sky_BB3 = np.zeros((sky_px, sky_px, 3), dtype=np.float32)
    if is_ground.any():
        depth = along[is_ground] - np.sqrt(1 - miss_squared[is_ground])
        up_NX = (rays[is_ground] * depth[:, None] - centre_X).astype(np.float32)
        sky_BB3[is_ground] = _ground(rng, scene, up_NX, -rays[is_ground].astype(np.float32))
    above = ~is_ground & (along > 0)
    height = np.sqrt(miss_squared[above]) - 1
    nearest_NX = rays[above] * along[above][:, None] - centre_X
    sun_N = (nearest_NX / (1 + height[:, None])) @ scene.sun_X.astype(np.float64)
    sky_BB3[above] = _glow(height, sun_N)
    return sky_BB3


def _glow(height: NDArray[np.float64], sun_N: NDArray[np.float64]) -> Floats:
    density_N = np.exp(-np.maximum(height, 0) / _GLOW_HEIGHT_RADII)
    day_N = smoothstep(-0.12, 0.25, sun_N.astype(np.float32))
    dusk_N = np.exp(-(((sun_N + 0.02) / 0.07) ** 2))
    colour_N3 = _HAZE_RGB * day_N[:, None] + _DUSK_RGB * (0.35 * dusk_N * density_N)[:, None]
    result: Floats = (colour_N3 * (1.35 * density_N)[:, None]).astype(np.float32)
    return result


def _ground(rng: np.random.Generator, scene: Scene, up_NX: Floats, to_camera_NX: Floats) -> Floats:
    """Radiance of the Earth's surface, clouds and air."""
    u, v = _map_coordinates(rng, scene, up_NX)
    cover, threshold = rng.uniform(-0.35, 1.0), rng.uniform(-0.4, 1.3)
    land_noise = sample_tile(fractal_tile(21, 1.9), u * 0.45, v * 0.45)
    dryness = sample_tile(fractal_tile(22, 1.7), u * 1.3 + 0.3, v * 1.3)
    grain = sample_tile(fractal_tile(23, 1.3), u * 9.0, v * 9.0)
    land_N = smoothstep(-0.04, 0.04, land_noise + 0.12 * grain - np.float32(threshold))[:, None]
    soil_N3 = _FOREST_RGB + (_DESERT_RGB - _FOREST_RGB) * smoothstep(-0.6, 0.9, dryness + 0.25 * grain)[:, None]
    ground_N3 = _OCEAN_RGB + (soil_N3 * (1 + 0.22 * grain[:, None]) - _OCEAN_RGB) * land_N
    curl = sample_tile(fractal_tile(24, 2.2), u * 0.7, v * 0.7) * np.float32(0.06)
    cloud = sample_tile(fractal_tile(25, 1.75), u + curl, v - curl)
    cloud += 0.40 * sample_tile(fractal_tile(26, 1.5), u * 5.3 + curl * 3, v * 5.3)
    puff = sample_tile(fractal_tile(27, 1.45), u * 23.0, v * 23.0 + curl * 5)
    cloud += 0.20 * puff
    cloud_N = smoothstep(cover - 0.15, cover + 1.3, cloud)[:, None]
    cloud_N3 = _CLOUD_RGB * (0.62 + 0.38 * smoothstep(cover + 0.3, cover + 2.4, cloud) + 0.05 * puff)[:, None]
    sun_N = up_NX @ scene.sun_X
    day_N = smoothstep(-0.08, 0.12, sun_N)[:, None] * np.clip(sun_N * 0.92 + 0.08, 0, 1)[:, None]
    halfway_NX = to_camera_NX + scene.sun_X
    halfway_NX /= np.maximum(np.linalg.norm(halfway_NX, axis=1, keepdims=True), 1e-6)
    glint_N = np.maximum(np.einsum("nx,nx->n", halfway_NX, up_NX), 0) ** 90
    sea_N3 = ground_N3 + (np.float32(0.45) * glint_N)[:, None] * (1 - land_N)
    surface_N3 = sea_N3 + (cloud_N3 - sea_N3) * cloud_N
    slant_N = np.maximum(np.einsum("nx,nx->n", up_NX, to_camera_NX), 0.02)
    air_N = (1 - np.exp(-_HAZE_DEPTH / slant_N))[:, None]
    haze_N3 = _HAZE_RGB * smoothstep(-0.15, 0.35, sun_N)[:, None] * np.float32(1.1)
    dusk_N3 = _DUSK_RGB * (0.10 * np.exp(-(((sun_N + 0.01) / 0.08) ** 2)))[:, None]
    result: Floats = (surface_N3 * day_N * (1 - air_N) + haze_N3 * air_N + dusk_N3 * air_N).astype(np.float32)
    return result


def _map_coordinates(rng: np.random.Generator, scene: Scene, up_NX: Floats) -> tuple[Floats, Floats]:
    """Azimuthal equidistant map around the point below the camera, turned and moved at random; one unit is a tile."""
    below_X = -scene.earth_X.astype(np.float64)
    east_X = np.cross(below_X, [0.0, 1.0, 0.0] if abs(below_X[1]) < 0.9 else [1.0, 0.0, 0.0])
    east_X /= np.linalg.norm(east_X)
    north_X = np.cross(east_X, below_X)
    turn_rad = rng.uniform(0, 2 * np.pi)
    first_X = east_X * np.cos(turn_rad) + north_X * np.sin(turn_rad)
    second_X = north_X * np.cos(turn_rad) - east_X * np.sin(turn_rad)
    x, y = up_NX @ first_X, up_NX @ second_X
    flat = np.maximum(np.hypot(x, y), 1e-9)
    stretch = np.arcsin(np.clip(flat, 0, 1)) / flat / rng.uniform(0.30, 0.55)
    offset_u, offset_v = rng.uniform(0, 1, 2)
    return (x * stretch + offset_u).astype(np.float32), (y * stretch + offset_v).astype(np.float32)


def _add_stars(rng: np.random.Generator, frame_HW3: Floats, *, is_faint: bool) -> None:
    """Adds stars in place, each a few pixels wide, where nothing brighter is."""
    size_px = frame_HW3.shape[0]
    num_stars = int(np.exp(rng.uniform(np.log(60), np.log(900))) * (0.4 if is_faint else 1.0))
    # Star counts grow about fourfold per magnitude step of 1.5, hence the heavy tail.
    flux = np.minimum(0.012 * rng.pareto(1.25, num_stars) + 0.008, 2.5) * (0.5 if is_faint else 1.0)
    warmth = rng.normal(0, 0.16, num_stars)
    colour = np.stack([1 + warmth, np.ones(num_stars), 1 - warmth], axis=1)
    x, y = rng.uniform(0, size_px, (2, num_stars))
    flux *= frame_HW3[y.astype(int), x.astype(int)].max(axis=1) < 0.004
    sigma_px = rng.uniform(0.55, 0.9)
    for shift_y in (-2, -1, 0, 1, 2):
        for shift_x in (-2, -1, 0, 1, 2):
            column, row = np.floor(x).astype(int) + shift_x, np.floor(y).astype(int) + shift_y
            squared = (column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2
            light = flux * np.exp(-squared / (2 * sigma_px**2))
            inside = (column >= 0) & (column < size_px) & (row >= 0) & (row < size_px)
            column, row = column[inside], row[inside]
            np.add.at(frame_HW3, (row, column), (light[inside, None] * colour[inside]).astype(np.float32))
