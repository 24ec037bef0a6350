"""Random scenes: which craft, where, how turned, where the Sun and the Earth are.

Camera frame: x right, y down, z forward, metres. Layout legend: X Cartesian coordinates (3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import SPARK_CLASSES
from spacecompile.data.render.craft import Craft
from spacecompile.data.render.fleet import NUM_WING_STEPS, build_craft, sun_wing_step
from spacecompile.data.render.material import DIFFUSE_M3
from spacecompile.data.render.settings import RenderSettings

Floats: TypeAlias = NDArray[np.float32]

_BACKGROUNDS: Final = ("space", "stars", "limb", "earth")
_BACKGROUND_SHARES: Final = (0.17, 0.18, 0.30, 0.35)
_EARTH_RADIUS_KM: Final = 6371.0

# Share of frames whose craft is far (a few dozen pixels), at working range, and near (cut off by the frame edge).
_RANGE_SHARES: Final = (0.16, 0.64, 0.20)
_RANGE_EXTENTS: Final = ((0.045, 0.14), (0.14, 0.85), (0.75, 1.9))
_MIN_EXTENT_PX: Final = 30.0
# Share of frames whose wings are turned to the Sun, as they are in flight.
_SUN_TRACKING_SHARE: Final = 0.7


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Everything that is drawn, before the camera.

    Attributes:
        craft: The spacecraft.
        camera_from_craft: Rotation [3, 3].
        position_X: Craft centre in the camera frame.
        focal_px: Focal length.
        sun_X: Unit direction to the Sun, camera frame.
        earth_X: Unit direction to the Earth's centre, camera frame.
        earth_distance_radii: Camera to Earth's centre, in Earth radii.
        earthshine: Irradiance from the Earth where the Sun's is 1.
        background: Kind of background: `space`, `stars`, `limb` or `earth`.
        tint_M3: Factor on each material's reflectance: no two makes of a material are alike.
    """

    craft: Craft
    camera_from_craft: Floats
    position_X: Floats
    focal_px: float
    sun_X: Floats
    earth_X: Floats
    earth_distance_radii: float
    earthshine: float
    background: str
    tint_M3: Floats


def class_name_of(settings: RenderSettings, index: int) -> str:
    """Class of a frame: every ten frames in a row hold each class once, in a shuffled order."""
    block, position = divmod(index, len(SPARK_CLASSES))
    rng = np.random.default_rng([settings.seed, settings.split_id, block, 1])
    return SPARK_CLASSES[rng.permutation(len(SPARK_CLASSES))[position]]


def random_scene(rng: np.random.Generator, class_name: str, frame_size_px: int) -> Scene:
    """Draws one scene; whether enough of the craft is seen is for the caller to check."""
    focal_px = frame_size_px / (2 * np.tan(np.radians(rng.uniform(24.0, 48.0)) / 2))
    background = _BACKGROUNDS[int(rng.choice(len(_BACKGROUNDS), p=_BACKGROUND_SHARES))]
    half_view_rad = float(np.arctan(frame_size_px / 2 / focal_px))
    earth_X, distance_radii = _random_earth(rng, background, half_view_rad)
    sun_X = _random_sun(rng, background, earth_X)
    camera_from_craft = _random_rotation(rng)
    is_tracking = rng.uniform() < _SUN_TRACKING_SHARE
    step = sun_wing_step(class_name, sun_X @ camera_from_craft) if is_tracking else int(rng.integers(NUM_WING_STEPS))
    craft = build_craft(class_name, step)
    position_X = _random_position(rng, craft, camera_from_craft, focal_px, frame_size_px)
    shine_low, shine_high = (0.02, 0.22) if background in ("limb", "earth") else (0.002, 0.05)
    make = np.exp(rng.normal(0, 0.13, (len(DIFFUSE_M3), 1)) + rng.normal(0, 0.05, DIFFUSE_M3.shape))
    return Scene(
        craft=craft,
        camera_from_craft=camera_from_craft,
        position_X=position_X,
        focal_px=float(focal_px),
        sun_X=sun_X,
        earth_X=earth_X,
        earth_distance_radii=distance_radii,
        earthshine=float(np.exp(rng.uniform(np.log(shine_low), np.log(shine_high)))),
        background=background,
        tint_M3=make.astype(np.float32),
    )


def projected_bounds(
    craft: Craft, camera_from_craft: Floats, position_X: Floats, focal_px: float
) -> tuple[float, float, float, float]:
    """Box of the projected craft, xyxy in pixels from the optical axis; exact for what lies before the camera."""
    points_VX = craft.vertices_VX @ camera_from_craft.T + position_X
    depth_V = np.maximum(points_VX[:, 2], 0.05)
    xy_V2 = points_VX[:, :2] * (focal_px / depth_V)[:, None]
    (x_min, y_min), (x_max, y_max) = xy_V2.min(axis=0), xy_V2.max(axis=0)
    return float(x_min), float(y_min), float(x_max), float(y_max)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / np.linalg.norm(vector)


def _random_rotation(rng: np.random.Generator) -> Floats:
    w, x, y, z = _unit(rng.standard_normal(4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=np.float32,
    )


def _random_position(
    rng: np.random.Generator, craft: Craft, camera_from_craft: Floats, focal_px: float, frame_size_px: int
) -> Floats:
    """Chooses the apparent size first, then the range that gives it, then where in the frame it is."""
    low, high = _RANGE_EXTENTS[int(rng.choice(3, p=_RANGE_SHARES))]
    low = max(low, _MIN_EXTENT_PX / frame_size_px)
    extent_px = frame_size_px * np.exp(rng.uniform(np.log(low), np.log(max(high, low * 1.5))))
    nearest_m = 1.08 * craft.radius_m
    range_m = max(2 * craft.radius_m * focal_px / extent_px, nearest_m)
    for _ in range(4):
        x_min, y_min, x_max, y_max = projected_bounds(
            craft, camera_from_craft, np.array([0, 0, range_m], np.float32), focal_px
        )
        range_m = max(range_m * max(x_max - x_min, y_max - y_min) / extent_px, nearest_m)
    half_px = frame_size_px / 2
    room_px = half_px - extent_px / 2
    is_cut = rng.uniform() < 0.15
    reach_px = 0.85 * half_px if is_cut else max(room_px, 0.25 * half_px)
    x_px, y_px = rng.uniform(-reach_px, reach_px, 2)
    x_px, y_px = x_px - (x_min + x_max) / 2, y_px - (y_min + y_max) / 2
    return np.array([x_px * range_m / focal_px, y_px * range_m / focal_px, range_m], dtype=np.float32)


def _random_earth(rng: np.random.Generator, background: str, half_view_rad: float) -> tuple[Floats, float]:
    """Direction to the Earth's centre and its distance in Earth radii."""
    low_km, high_km = (350.0, 2500.0) if background == "earth" else (350.0, 15000.0)
    altitude_km = np.exp(rng.uniform(np.log(low_km), np.log(high_km)))
    distance_radii = 1 + altitude_km / _EARTH_RADIUS_KM
    disc_rad = np.arcsin(1 / distance_radii)
    if background == "earth":
        off_axis_rad = rng.uniform(0.0, max(disc_rad - 1.25 * half_view_rad, 0.05))
    elif background == "limb":
        off_axis_rad = disc_rad + rng.uniform(-0.9, 0.8) * half_view_rad
    else:
        off_axis_rad = min(disc_rad + half_view_rad * 1.5 + rng.uniform(0.05, 1.5), np.pi)
    around_rad = rng.uniform(0, 2 * np.pi)
    side = np.sin(off_axis_rad)
    direction = np.array([side * np.cos(around_rad), side * np.sin(around_rad), np.cos(off_axis_rad)])
    return direction.astype(np.float32), float(distance_radii)


def _random_sun(rng: np.random.Generator, background: str, earth_X: Floats) -> Floats:
    """Sun direction: seldom behind the craft, and seldom over an Earth that would be all night."""
    sun_X = _unit(rng.standard_normal(3))
    for _ in range(12):
        is_backlit = sun_X[2] > 0.25
        is_night = background in ("limb", "earth") and float(sun_X @ earth_X) > -0.2
        if not (is_backlit and rng.uniform() < 0.9) and not (is_night and rng.uniform() < 0.88):
            break
        sun_X = _unit(rng.standard_normal(3))
    return sun_X.astype(np.float32)
