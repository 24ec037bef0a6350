"""Shading of hits: sunlight with hard shadows, foil wrinkles, solar cells, earthshine.

Radiance is linear RGB where a white Lambert surface facing the Sun has 1.
Layout legend: N hits, X Cartesian coordinates (3), 3 RGB.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spacecompile.data.render.cast import Hits, sunlit
from spacecompile.data.render.craft import Craft
from spacecompile.data.render.material import CRINKLE_M, DIFFUSE_M3, GLOSS_M, IS_CELLS_M, SPECULAR_M3
from spacecompile.data.render.scene import Scene
from spacecompile.data.render.texture import CRINKLE_TILE_M, TILE_PX, crinkle_levels, smoothstep

Floats: TypeAlias = NDArray[np.float32]

_EARTHSHINE_RGB: Final = np.array([0.72, 0.86, 1.0], dtype=np.float32)
# Light from the craft's own parts, the one thing that a single bounce misses; a few per mille of the Sun.
_FILL: Final = np.float32(0.004)

_CELL_PITCH_M: Final = (0.08, 0.055)
_CELL_GAP_M: Final = 0.006
_STRING_CELLS: Final = 8
_STRING_GAP_M: Final = 0.016
_RIM_M: Final = 0.028
_GAP_RGB: Final = np.array([0.16, 0.15, 0.14], dtype=np.float32)

# Other axes of the tile that a surface facing x, y or z is papered with.
_TANGENT_AXES: Final = np.array([[1, 2], [2, 0], [0, 1]])


def shade(scene: Scene, hits: Hits) -> Floats:
    """Radiance towards the camera.

    Returns:
        float32 [N, 3], unbounded above: glints are far beyond white.
    """
    craft = scene.craft
    sun_X, earth_X = scene.sun_X @ scene.camera_from_craft, scene.earth_X @ scene.camera_from_craft
    material_N = craft.material_F[hits.face_N]
    diffuse_N3 = (DIFFUSE_M3 * scene.tint_M3)[material_N]
    specular_N3 = (SPECULAR_M3 * scene.tint_M3)[material_N]
    footprint_N = hits.distance_N / np.float32(scene.focal_px)
    normal_NX, gloss_N = _wrinkled(hits, material_N, footprint_N)
    cells_N = np.flatnonzero(IS_CELLS_M[material_N])
    if len(cells_N):
        _draw_cells(craft, hits, cells_N, footprint_N, diffuse_N3, specular_N3, normal_NX)
    sun_N = np.maximum(normal_NX @ sun_X, 0) * sunlit(craft, hits.point_NX, hits.flat_normal_NX, sun_X)
    facing_N = np.clip(np.einsum("nx,nx->n", normal_NX, hits.to_camera_NX), 0, 1)
    specular_N3 += (1 - specular_N3) * (np.float32(0.35) * (1 - facing_N) ** 5)[:, None]
    halfway_NX = hits.to_camera_NX + sun_X
    halfway_NX /= np.maximum(np.sqrt(np.einsum("nx,nx->n", halfway_NX, halfway_NX)), np.float32(1e-6))[:, None]
    lobe_N = np.maximum(np.einsum("nx,nx->n", normal_NX, halfway_NX), 0) ** gloss_N * (gloss_N + 2) / 8
    radiance_N3: Floats = diffuse_N3 * sun_N[:, None] + specular_N3 * (lobe_N * sun_N)[:, None]
    wrap_N = np.float32(0.5) + np.float32(0.5) * (normal_NX @ earth_X)
    radiance_N3 += diffuse_N3 * (wrap_N[:, None] * _EARTHSHINE_RGB * np.float32(scene.earthshine) + _FILL)
    radiance_N3 += specular_N3 * _reflected_earth(scene, normal_NX, hits.to_camera_NX, facing_N, earth_X)
    return radiance_N3


def _reflected_earth(
    scene: Scene, normal_NX: Floats, to_camera_NX: Floats, facing_N: Floats, earth_X: Floats
) -> Floats:
    mirror_NX = 2 * facing_N[:, None] * normal_NX - to_camera_NX
    disc_cos = float(np.sqrt(max(1 - 1 / scene.earth_distance_radii**2, 0.0)))
    seen_N = smoothstep(disc_cos - 0.7, disc_cos + 0.35, mirror_NX @ earth_X)
    return seen_N[:, None] * _EARTHSHINE_RGB * np.float32(1.2 * scene.earthshine) + _FILL


def _wrinkled(hits: Hits, material_N: NDArray[np.int32], footprint_N: Floats) -> tuple[Floats, Floats]:
    """Normals bent by foil wrinkles, and gloss: what is too fine to see becomes roughness."""
    gloss_N = GLOSS_M[material_N].copy()
    normal_NX = hits.normal_NX.copy()
    foil_N = np.flatnonzero(CRINKLE_M[material_N] > 0)
    if not len(foil_N):
        return normal_NX, gloss_N
    texel_m = CRINKLE_TILE_M / TILE_PX
    levels = crinkle_levels()
    blur = float(np.log2(max(float(np.median(footprint_N)) / texel_m, 1.0)))
    level = min(round(blur), len(levels) - 1)
    slopes = levels[level]
    axes_N2 = _TANGENT_AXES[np.abs(hits.flat_normal_NX[foil_N]).argmax(axis=1)]
    point_NX = hits.point_NX[foil_N]
    rows = np.arange(len(foil_N))
    texels_per_m = np.float32(slopes.shape[0] / CRINKLE_TILE_M)
    u, v = (np.floor(point_NX[rows, axes_N2[:, side]] * texels_per_m).astype(np.int32) for side in (0, 1))
    bend_N2 = slopes[v % slopes.shape[0], u % slopes.shape[0]] * CRINKLE_M[material_N[foil_N], None]
    bent_NX = normal_NX[foil_N]
    bent_NX[rows, axes_N2[:, 0]] -= bend_N2[:, 0]
    bent_NX[rows, axes_N2[:, 1]] -= bend_N2[:, 1]
    bent_NX /= np.maximum(np.sqrt(np.einsum("nx,nx->n", bent_NX, bent_NX)), np.float32(1e-6))[:, None]
    normal_NX[foil_N] = bent_NX
    lost = CRINKLE_M[material_N[foil_N]] ** 2 * np.float32(1 - float(slopes.var()))
    gloss_N[foil_N] = 1 / (1 / gloss_N[foil_N] + lost)
    return normal_NX, gloss_N


def _draw_cells(
    craft: Craft,
    hits: Hits,
    cells_N: NDArray[np.int64],
    footprint_N: Floats,
    diffuse_N3: Floats,
    specular_N3: Floats,
    normal_NX: Floats,
) -> None:
    """Draws the cell grid in place: gaps, strings, the panel's rim, and small differences between cells."""
    piece_N = craft.piece_F[hits.face_N[cells_N]]
    local_N24 = craft.local_from_craft_P34[piece_N, :2]
    xy_N2 = np.einsum("nij,nj->ni", local_N24[..., :3], hits.point_NX[cells_N]) + local_N24[..., 3]
    slant_N = np.abs(np.einsum("nx,nx->n", hits.flat_normal_NX[cells_N], hits.to_camera_NX[cells_N]))
    blur_m = footprint_N[cells_N] / np.sqrt(np.maximum(slant_N, np.float32(0.05)))
    gap_N = np.zeros(len(cells_N), dtype=np.float32)
    cell_N2 = np.empty((len(cells_N), 2), dtype=np.int32)
    for side, pitch_m in enumerate(_CELL_PITCH_M):
        cell_N2[:, side] = np.floor(xy_N2[:, side] / pitch_m)
        gap_N = np.maximum(gap_N, _line_coverage(xy_N2[:, side], pitch_m, _CELL_GAP_M, blur_m))
        gap_N = np.maximum(gap_N, _line_coverage(xy_N2[:, side], pitch_m * _STRING_CELLS, _STRING_GAP_M, blur_m))
    inside_N = (craft.half_extent_P2[piece_N] - np.abs(xy_N2)).min(axis=1)
    gap_N = np.maximum(gap_N, np.clip((_RIM_M - inside_N) / blur_m + np.float32(0.5), 0, 1))
    detail_N = np.clip(np.float32(0.06) / blur_m - 1, 0, 1)
    mixed_N = (cell_N2[:, 0] * 73856093 ^ cell_N2[:, 1] * 19349663 ^ piece_N * 83492791).astype(np.uint32)
    mixed_N = (mixed_N ^ (mixed_N >> np.uint32(15))) * np.uint32(2246822519)
    first_N, second_N = (
        (mixed_N >> np.uint32(shift) & np.uint32(1023)) / np.float32(1023) - np.float32(0.5) for shift in (6, 18)
    )
    shade_N = 1 + np.float32(0.5) * first_N * detail_N
    cell_rgb_N3 = diffuse_N3[cells_N] * shade_N[:, None]
    diffuse_N3[cells_N] = cell_rgb_N3 + (_GAP_RGB - cell_rgb_N3) * gap_N[:, None]
    specular_N3[cells_N] *= (1 - np.float32(0.6) * gap_N)[:, None]
    tilt_N2 = np.stack([first_N, second_N], axis=1) * (np.float32(0.03) * detail_N)[:, None]
    normal_NX[cells_N] += np.einsum("nij,ni->nj", local_N24[..., :3], tilt_N2)


def _line_coverage(position_m: Floats, pitch_m: float, width_m: float, blur_m: Floats) -> Floats:
    """How much of a pixel a grid line fills; fades to the grid's mean where the grid is finer than a pixel."""
    away_m = np.abs(position_m - np.rint(position_m / pitch_m) * np.float32(pitch_m))
    sharp = np.clip((width_m / 2 - away_m) / blur_m + np.float32(0.5), 0, 1) * np.minimum(width_m / blur_m, 1)
    coarse = np.clip(blur_m / np.float32(pitch_m / 2) - 1, 0, 1)
    result: Floats = (sharp * (1 - coarse) + np.float32(width_m / pitch_m) * coarse).astype(np.float32)
    return result
