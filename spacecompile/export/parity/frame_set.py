"""The frames that parity is judged on: real ones, or rendered ones, and the adversarial ones that every build runs.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spacecompile.contract import Progress, no_progress
from spacecompile.data.images import NamedImage, find_images
from spacecompile.data.labels import SPLITS, LabelledFrame, read_split, spread
from spacecompile.data.spark import parts_HW_from_mask
from spacecompile.errors import DataError, FrameError, UsageError
from spacecompile.runtime.frame_reader import FrameReader

logger = logging.getLogger(__name__)

Kind = Literal["real", "rendered", "adversarial"]


_NOISE_SEED = 20240
_CALIBRATION_SEED = 20241
_THUMBNAIL_PX = 64
_LIT_LEVEL = 40
"""Grey level, of 255, above which a pixel shows something other than the sky."""
_CHECKER_CELLS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """Labels of one frame.

    Attributes:
        class_name: Class of the spacecraft.
        parts_HW: Parts as uint8, bit 0 body, bit 1 panel.
        box_xyxy: Half-open box in frame pixels.
    """

    class_name: str
    parts_HW: NDArray[np.uint8]
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class ParityFrame:
    """One frame to compare answers on.

    Attributes:
        name: Name, unique within a build; for a file, its path below the data folder.
        kind: Origin of the frame.
        frame_HWC: Pixels, uint8 RGB.
        truth: Labels of the frame, where they are known.
    """

    name: str
    kind: Kind
    frame_HWC: NDArray[np.uint8]
    truth: Truth | None = None


def parity_frames(
    frame_size_px: tuple[int, int], *, data: Path | None, count: int, progress: Progress = no_progress
) -> tuple[ParityFrame, ...]:
    """Collect the frames of one build: `count` real or rendered ones, evenly spread, then the adversarial ones.

    Args:
        frame_size_px: Size of the frames as (height, width).
        data: A SPARK-format folder or any folder of images of that size. Without one, frames are rendered where the
            `render` extra is installed, and only adversarial ones are used where it is not.
        count: Largest number of frames that are not adversarial.
        progress: Callback for progress.

    Raises:
        DataError: If the folder holds no image, or an image has another size or can't be read.
    """
    if data is not None:
        chosen = _real_frames(frame_size_px, data=data, count=count, progress=progress)
    else:
        chosen = _rendered_frames(frame_size_px, count=count, progress=progress)
    return (*chosen, *adversarial_frames(frame_size_px))


def _real_frames(
    frame_size_px: tuple[int, int], *, data: Path, count: int, progress: Progress = no_progress
) -> tuple[ParityFrame, ...]:
    """Read `count` images of a folder, evenly spread over its sorted names; see `parity_frames`."""
    chosen = spread(images_of(data), count)
    labels = _labels_of(data)
    return tuple(_read(chosen, labels, frame_size_px, progress, "frames"))


def calibration_frames(
    frame_size_px: tuple[int, int],
    *,
    data: Path | None,
    parity_count: int,
    count: int = 16,
    progress: Progress = no_progress,
) -> tuple[ParityFrame, ...]:
    """Frames that ranges are measured on: others than those that the result is judged on, as far as there are any.

    Half of them are spread over the folder; the rest are its darkest, brightest and most filled ones, and two of them
    again nearly black and saturated, so that no camera setting finds a range that was never seen.

    Args:
        frame_size_px: Size of the frames as (height, width).
        data: Folder of frames as for `parity_frames`; None for rendered ones.
        parity_count: Number of frames that parity is judged on, which are left out.
        count: Largest number of frames before the two that are made.
        progress: Callback for progress.

    Raises:
        DataError: Same as `parity_frames`.
    """
    step = "calibration frames"
    if data is None:
        chosen = _rendered_frames(frame_size_px, count=count, seed=_CALIBRATION_SEED, progress=progress, step=step)
    else:
        found = images_of(data)
        judged = {image.path for image in spread(found, parity_count)}
        others = [image for image in found if image.path not in judged] or found
        picked = spread(others, count // 2)
        picked += _extremes([image for image in spread(others, 8 * count) if image not in picked], count - len(picked))
        chosen = tuple(_read(picked, {}, frame_size_px, progress, step))
    made = [
        ParityFrame(name=f"{name} {chosen[0].name}", kind=chosen[0].kind, frame_HWC=_exposed(chosen[0].frame_HWC, gain))
        for name, gain in (("dark", 0.05), ("saturated", 6.0))
        if chosen
    ]
    return (*chosen, *made)


def _extremes(images: list[NamedImage], count: int) -> list[NamedImage]:
    """The darkest, the brightest and the most filled of some images, by thumbnails."""
    levels = {}
    for image in images:
        try:
            with Image.open(image.path) as opened:
                opened.draft("L", (_THUMBNAIL_PX, _THUMBNAIL_PX))
                thumbnail = np.asarray(opened.convert("L").resize((_THUMBNAIL_PX, _THUMBNAIL_PX)))
        except OSError:
            continue  # the reader names it where it is asked for
        levels[image] = (float(thumbnail.mean()), float((thumbnail > _LIT_LEVEL).mean()))
    by_mean = sorted(levels, key=lambda image: levels[image][0])
    by_fill = sorted(levels, key=lambda image: -levels[image][1])
    third = -(-count // 3)
    wanted = dict.fromkeys([*by_mean[:third], *by_mean[::-1][:third], *by_fill[:third]])
    return list(wanted)[:count]


def _exposed(frame_HWC: NDArray[np.uint8], gain: float) -> NDArray[np.uint8]:
    exposed_HWC: NDArray[np.uint8] = np.clip(np.rint(frame_HWC * gain), 0, 255).astype(np.uint8)
    return exposed_HWC


def _read(
    chosen: Sequence[NamedImage],
    labels: Mapping[Path, LabelledFrame],
    frame_size_px: tuple[int, int],
    progress: Progress,
    step: str,
) -> list[ParityFrame]:
    reader = FrameReader(frame_size_px=frame_size_px)
    frames = []
    for done, image in enumerate(chosen, start=1):
        try:
            frame_HWC = reader.read(image.path)
        except FrameError as error:
            raise DataError(f"--data can't be used: {error}") from error
        truth = _truth(labels[image.path.resolve()], frame_size_px) if image.path.resolve() in labels else None
        # Pillow's pixels are read-only, which torch refuses to share.
        frames.append(ParityFrame(name=image.name, kind="real", frame_HWC=frame_HWC.copy(), truth=truth))
        progress(step, done, len(chosen))
    return frames


def _labels_of(data: Path) -> dict[Path, LabelledFrame]:
    """Labels by frame, where the folder is in the SPARK format; a folder of another format has none."""
    labels: dict[Path, LabelledFrame] = {}
    for split in SPLITS:
        if (data / f"{split}.csv").exists():
            try:
                labels |= {frame.image_path.resolve(): frame for frame in read_split(data, split)}
            except DataError as error:
                logger.warning("labels are not used, so that no score is judged: %s", error)
    return labels


def _truth(frame: LabelledFrame, frame_size_px: tuple[int, int]) -> Truth | None:
    if frame.mask_path is None:
        return None
    parts_HW = parts_HW_from_mask(frame.mask_path)
    if parts_HW.shape != frame_size_px:
        return None
    left, top, right, bottom = frame.box_xyxy
    return Truth(class_name=frame.class_name, parts_HW=parts_HW, box_xyxy=(left, top, right, bottom))


def images_of(data: Path) -> list[NamedImage]:
    """The images of a data folder, sorted by name; of a SPARK-format one the frames, not the masks.

    Raises:
        DataError: If there is none.
    """
    if not data.is_dir():
        raise DataError(f"--data {data} is not a folder. Name one with images, or leave --data out.")
    root = data / "images" if (data / "images").is_dir() else data
    try:
        return find_images([str(root)], recursive=True)
    except UsageError as error:
        raise DataError(f"--data can't be used: {error}") from error


def _rendered_frames(
    frame_size_px: tuple[int, int],
    *,
    count: int,
    seed: int | None = None,
    progress: Progress = no_progress,
    step: str = "frames",
) -> tuple[ParityFrame, ...]:
    """Render `count` frames, of the renderer's own seed if none is given; none without the `render` extra."""
    try:
        from spacecompile.data.render.frame import render_frame  # noqa: PLC0415 - an extra of its own
        from spacecompile.data.render.settings import RenderSettings  # noqa: PLC0415
    except ModuleNotFoundError:
        return ()
    height, width = frame_size_px
    settings = RenderSettings(num_frames=max(1, count), split="val", frame_size_px=max(64, *frame_size_px))
    if seed is not None:
        settings = replace(settings, seed=seed)
    frames = []
    for index in range(count):
        rendered = render_frame(settings, index)
        square_HWC = rendered.frame_HWC
        top, left = (square_HWC.shape[0] - height) // 2, (square_HWC.shape[1] - width) // 2
        frame_HWC = np.ascontiguousarray(square_HWC[top : top + height, left : left + width])
        truth = None
        if frame_HWC.shape == square_HWC.shape:  # a craft that is cut has no box to speak of
            box_xyxy = rendered.box_xyxy
            truth = Truth(class_name=rendered.class_name, parts_HW=rendered.parts_HW, box_xyxy=box_xyxy)
        frames.append(ParityFrame(name=f"rendered-{index:03d}", kind="rendered", frame_HWC=frame_HWC, truth=truth))
        progress(step, index + 1, count)
    return tuple(frames)


def adversarial_frames(frame_size_px: tuple[int, int]) -> tuple[ParityFrame, ...]:
    """Frames that no camera should take: uniform, saturated, noise, one lone pixel, hard edges."""
    height, width = frame_size_px
    black_HWC = np.zeros((height, width, 3), np.uint8)
    rows, columns = np.indices((height, width))
    checker_HW = (rows * _CHECKER_CELLS // height + columns * _CHECKER_CELLS // width) % 2
    one_pixel_HWC = black_HWC.copy()
    one_pixel_HWC[height // 3, width // 3] = 255
    noise_HWC = np.random.default_rng(_NOISE_SEED).integers(0, 256, black_HWC.shape, dtype=np.uint8)
    frames_HWC = {
        "black": black_HWC,
        "white": np.full_like(black_HWC, 255),
        "red": _one_channel(black_HWC, 0),
        "green": _one_channel(black_HWC, 1),
        "blue": _one_channel(black_HWC, 2),
        "noise": noise_HWC,
        "one-pixel": one_pixel_HWC,
        "checkerboard": np.repeat(checker_HW[..., None] * 255, 3, axis=2).astype(np.uint8),
    }
    return tuple(ParityFrame(name=name, kind="adversarial", frame_HWC=frame) for name, frame in frames_HWC.items())


def _one_channel(black_HWC: NDArray[np.uint8], channel: int) -> NDArray[np.uint8]:
    frame_HWC = black_HWC.copy()
    frame_HWC[..., channel] = 255
    return frame_HWC
