"""Ray casting with Embree: which face each pixel sees, and which hits the Sun reaches.

Layout legend: H, W rows and columns of a region, R rays, N hits, X Cartesian coordinates (3) in the craft
frame, metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from spacecompile.data.render.craft import Craft
from spacecompile.data.render.scene import Scene, projected_bounds

Floats: TypeAlias = NDArray[np.float32]

_SHADOW_OFFSET_M: Final = 2e-3


@dataclass(frozen=True, kw_only=True)
class Region:
    """Part of the frame that can hold the craft: half-open, whole pixels."""

    x_min: int
    y_min: int
    x_max: int
    y_max: int

    @property
    def width_px(self) -> int:
        """Columns."""
        return self.x_max - self.x_min

    @property
    def height_px(self) -> int:
        """Rows."""
        return self.y_max - self.y_min


@dataclass(frozen=True, kw_only=True, eq=False)
class Hits:
    """What the rays of a region hit.

    Attributes:
        pixel_N: Flat pixel index within the region.
        face_N: Face index.
        point_NX: Hit point.
        normal_NX: Shading normal, unit, towards the camera.
        flat_normal_NX: Geometric normal, unit, towards the camera.
        to_camera_NX: Unit direction to the camera.
        distance_N: Range in metres.
    """

    pixel_N: NDArray[np.int64]
    face_N: NDArray[np.int32]
    point_NX: Floats
    normal_NX: Floats
    flat_normal_NX: Floats
    to_camera_NX: Floats
    distance_N: Floats


@cache
def _embree_scene(craft: Craft) -> EmbreeScene:
    embree_scene = EmbreeScene()
    TriangleMesh(embree_scene, craft.vertices_VX, craft.faces_F3)
    return embree_scene


def craft_region(scene: Scene, frame_size_px: int) -> Region | None:
    """The craft's projected bounding box, clipped to the frame; None when it is outside."""
    bounds = projected_bounds(scene.craft, scene.camera_from_craft, scene.position_X, scene.focal_px)
    half_px = frame_size_px / 2
    x_min, y_min = (int(np.clip(np.floor(edge + half_px) - 1, 0, frame_size_px)) for edge in bounds[:2])
    x_max, y_max = (int(np.clip(np.ceil(edge + half_px) + 1, 0, frame_size_px)) for edge in bounds[2:])
    if x_max <= x_min or y_max <= y_min:
        return None
    return Region(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)


def cast_region(scene: Scene, region: Region, frame_size_px: int, offset_xy_px: tuple[float, float]) -> Hits:
    """Casts one ray per pixel of the region, through `offset_xy_px` within each pixel."""
    craft = scene.craft
    x_W = np.arange(region.x_min, region.x_max, dtype=np.float32) + np.float32(offset_xy_px[0] - frame_size_px / 2)
    y_H = np.arange(region.y_min, region.y_max, dtype=np.float32) + np.float32(offset_xy_px[1] - frame_size_px / 2)
    grid_HWX = np.empty((region.height_px, region.width_px, 3), dtype=np.float32)
    grid_HWX[..., 0], grid_HWX[..., 1], grid_HWX[..., 2] = x_W[None], y_H[:, None], scene.focal_px
    rays_RX = grid_HWX.reshape(-1, 3)
    rays_RX /= np.sqrt(np.einsum("rx,rx->r", rays_RX, rays_RX))[:, None]
    rays_RX = rays_RX @ scene.camera_from_craft
    eye_X = -(scene.position_X @ scene.camera_from_craft)
    # Starting just outside the bounding sphere keeps float32 hits accurate at any range.
    skip_m = np.float32(max(float(np.linalg.norm(eye_X)) - 1.05 * craft.radius_m, 0.0))
    found = _embree_scene(craft).run(eye_X + rays_RX * skip_m, rays_RX, query="INTERSECT", output=True)
    pixel_N = np.flatnonzero(found["primID"] >= 0)
    face_N = found["primID"][pixel_N]
    distance_N = found["tfar"][pixel_N] + skip_m
    to_camera_NX = -rays_RX[pixel_N]
    u_N, v_N = found["u"][pixel_N, None], found["v"][pixel_N, None]
    corners_N3X = craft.normals_F3X[face_N]
    smooth_NX = corners_N3X[:, 0] * (1 - u_N - v_N) + corners_N3X[:, 1] * u_N + corners_N3X[:, 2] * v_N
    return Hits(
        pixel_N=pixel_N,
        face_N=face_N,
        point_NX=eye_X - to_camera_NX * distance_N[:, None],
        normal_NX=_facing(smooth_NX, to_camera_NX),
        flat_normal_NX=_facing(found["Ng"][pixel_N], to_camera_NX),
        to_camera_NX=to_camera_NX,
        distance_N=distance_N,
    )


def sunlit(craft: Craft, point_NX: Floats, flat_normal_NX: Floats, sun_X: Floats) -> NDArray[np.bool_]:
    """Whether the Sun reaches each hit: hard shadows, self-shadowing included."""
    lit_N = flat_normal_NX @ sun_X > 0
    start_NX = point_NX[lit_N] + flat_normal_NX[lit_N] * np.float32(_SHADOW_OFFSET_M)
    if len(start_NX):
        towards_NX = np.broadcast_to(sun_X, start_NX.shape).astype(np.float32)
        lit_N[lit_N] = _embree_scene(craft).run(start_NX, towards_NX, query="OCCLUDED") < 0
    return lit_N


def _facing(normal_NX: Floats, to_camera_NX: Floats) -> Floats:
    """Unit normals, turned towards the camera: sheets have two sides."""
    length_N = np.sqrt(np.einsum("nx,nx->n", normal_NX, normal_NX))
    side_N = np.where(np.einsum("nx,nx->n", normal_NX, to_camera_NX) < 0, np.float32(-1), np.float32(1))
    facing_NX: Floats = normal_NX * (side_N / np.maximum(length_N, np.float32(1e-12)))[:, None]
    return facing_NX
