"""One frame, from its index alone: scene, rays, shading, background, camera, labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spacecompile.data.labels import BoxXYXY
from spacecompile.data.render.background import draw_background
from spacecompile.data.render.camera import SEEN_AT, expose, random_exposure
from spacecompile.data.render.cast import Hits, Region, cast_region, craft_region
from spacecompile.data.render.scene import Scene, class_name_of, random_scene
from spacecompile.data.render.settings import RenderSettings
from spacecompile.data.render.shade import shade
from spacecompile.data.spark import BODY_BIT, tight_box

Floats: TypeAlias = NDArray[np.float32]

_LUMINANCE_RGB: Final = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
MIN_SILHOUETTE_PX: Final = 24
_MIN_SILHOUETTE_PIXELS: Final = 60
_MIN_BODY_SHARE: Final = 0.05
_MAX_TRIES: Final = 40
# The additive recurrence of the plastic number: evenly spread sub-pixel offsets for any count of samples.
_R2_STEP: Final = np.array([0.7548776662466927, 0.5698402909980532])


@dataclass(frozen=True, kw_only=True, eq=False)
class RenderedFrame:
    """One labelled frame.

    Attributes:
        frame_HWC: Pixels, uint8 [H, W, 3] RGB.
        parts_HW: Parts, uint8 [H, W]; bit 0 body, bit 1 panel.
        class_name: Class of the craft, one of `SPARK_CLASSES`.
        box_xyxy: Tight half-open box around every craft pixel.
        facts: Facts on how the frame came about, for plots and tests.
    """

    frame_HWC: NDArray[np.uint8]
    parts_HW: NDArray[np.uint8]
    class_name: str
    box_xyxy: BoxXYXY
    facts: dict[str, float | str]


def render_frame(settings: RenderSettings, index: int) -> RenderedFrame:
    """Renders frame `index` of a split; needs no other frame and gives the same pixels everywhere.

    Raises:
        ValueError: If `index` is negative.
    """
    if index < 0:
        raise ValueError(f"frame index is {index}; it must not be negative")
    rng = np.random.default_rng([settings.seed, settings.split_id, index, 0])
    class_name = class_name_of(settings, index)
    size_px = settings.frame_size_px
    for _ in range(_MAX_TRIES):
        scene = random_scene(rng, class_name, size_px)
        region = craft_region(scene, size_px)
        if region is None:
            continue
        hits = cast_region(scene, region, size_px, (0.5, 0.5))
        if not _shows_enough(scene, hits, region):
            continue
        colour_N3 = shade(scene, hits)
        exposure = random_exposure(rng, colour_N3 @ _LUMINANCE_RGB, size_px)
        if float(np.quantile(colour_N3 @ _LUMINANCE_RGB, 0.97)) * exposure.gain > 0.4 * SEEN_AT or rng.uniform() < 0.1:
            break
    else:
        raise AssertionError(f"no scene of {class_name} fills {MIN_SILHOUETTE_PX} pixels at seed {settings.seed}")
    radiance_HW3 = draw_background(rng, scene, size_px)
    _put_craft(radiance_HW3, region, [(hits, colour_N3), *_more_samples(settings, scene, region)])
    parts_HW = np.zeros((size_px, size_px), dtype=np.uint8)
    parts_of_region = parts_HW[region.y_min : region.y_max, region.x_min : region.x_max]
    parts_of_region[np.unravel_index(hits.pixel_N, parts_of_region.shape)] = scene.craft.part_F[hits.face_N]
    box_xyxy = tight_box(parts_HW)
    assert box_xyxy is not None  # _shows_enough
    return RenderedFrame(
        frame_HWC=expose(rng, radiance_HW3, region, exposure),
        parts_HW=parts_HW,
        class_name=class_name,
        box_xyxy=box_xyxy,
        facts={
            "background": scene.background,
            "range_m": float(np.linalg.norm(scene.position_X)),
            "phase_deg": float(np.degrees(np.arccos(np.clip(-scene.sun_X[2], -1, 1)))),
            "gain": exposure.gain,
            "blur_px": exposure.blur_px,
        },
    )


def _shows_enough(scene: Scene, hits: Hits, region: Region) -> bool:
    """Whether the silhouette is large enough and more than bare panels, which no one could tell apart."""
    if len(hits.pixel_N) < _MIN_SILHOUETTE_PIXELS:
        return False
    if float((scene.craft.part_F[hits.face_N] == BODY_BIT).mean()) < _MIN_BODY_SHARE:
        return False
    row, column = np.divmod(hits.pixel_N, region.width_px)
    return max(int(np.ptp(row)), int(np.ptp(column))) + 1 >= MIN_SILHOUETTE_PX


def _more_samples(settings: RenderSettings, scene: Scene, region: Region) -> list[tuple[Hits, Floats]]:
    samples = []
    for number in range(1, settings.samples_per_pixel):
        x, y = (0.5 + number * _R2_STEP) % 1.0
        hits = cast_region(scene, region, settings.frame_size_px, (float(x), float(y)))
        samples.append((hits, shade(scene, hits)))
    return samples


def _put_craft(radiance_HW3: Floats, region: Region, samples: list[tuple[Hits, Floats]]) -> None:
    """Puts the craft over the background in place; each sample that misses lets the background through."""
    behind = radiance_HW3[region.y_min : region.y_max, region.x_min : region.x_max]
    flat = np.zeros((behind.shape[0] * behind.shape[1], 3), dtype=np.float32)
    seen = np.zeros(len(flat), dtype=np.float32)
    for hits, colour_N3 in samples:
        flat[hits.pixel_N] += colour_N3
        seen[hits.pixel_N] += 1
    seen /= len(samples)
    flat /= len(samples)
    behind *= 1 - seen.reshape(*behind.shape[:2], 1)
    behind += flat.reshape(behind.shape)
