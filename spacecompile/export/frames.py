"""The frames that parity is judged on: real ones, or rendered ones, and the adversarial ones that every build runs.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import Progress, no_progress
from spacecompile.data.spark import spread
from spacecompile.errors import DataError, FrameError, UsageError
from spacecompile.runtime.frames import FrameReader
from spacecompile.runtime.images import NamedImage, find_images

Kind = Literal["real", "rendered", "adversarial"]


_NOISE_SEED = 20240
_CHECKER_CELLS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class ParityFrame:
    """One frame to compare answers on.

    Attributes:
        name: Unique within a build; for a file, its path below the data folder.
        kind: Where it comes from.
        frame_HWC: uint8 RGB.
    """

    name: str
    kind: Kind
    frame_HWC: NDArray[np.uint8]


def parity_frames(
    frame_size_px: tuple[int, int], *, data: Path | None, count: int, progress: Progress = no_progress
) -> tuple[ParityFrame, ...]:
    """Collect the frames of one build: `count` real or rendered ones, evenly spread, then the adversarial ones.

    Args:
        frame_size_px: (height, width).
        data: A SPARK-format folder or any folder of images of that size. Without one, frames are rendered where the
            `render` extra is installed, and only adversarial ones are used where it is not.
        count: Largest number of frames that are not adversarial.
        progress: Called with step `frames`.

    Raises:
        UsageError: If the folder holds no image.
        DataError: If an image has another size or can't be read.
    """
    if data is not None:
        chosen = real_frames(frame_size_px, data=data, count=count, progress=progress)
    else:
        chosen = rendered_frames(frame_size_px, count=count, progress=progress)
    return (*chosen, *adversarial_frames(frame_size_px))


def real_frames(
    frame_size_px: tuple[int, int], *, data: Path, count: int, progress: Progress = no_progress
) -> tuple[ParityFrame, ...]:
    """Read `count` images of a folder, evenly spread over its sorted names; see `parity_frames`."""
    found = images_of(data)
    chosen = spread(found, count)
    reader = FrameReader(frame_size_px=frame_size_px)
    frames = []
    for done, image in enumerate(chosen, start=1):
        try:
            frame_HWC = reader.read(image.path)
        except FrameError as error:
            raise DataError(f"--data can't be used: {error}") from error
        # Pillow's pixels are read-only, which torch refuses to share.
        frames.append(ParityFrame(name=image.name, kind="real", frame_HWC=frame_HWC.copy()))
        progress("frames", done, len(chosen))
    return tuple(frames)


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


def rendered_frames(
    frame_size_px: tuple[int, int], *, count: int, progress: Progress = no_progress
) -> tuple[ParityFrame, ...]:
    """Render `count` frames; none without the `render` extra."""
    try:
        from spacecompile.data.render.frame import render_frame  # noqa: PLC0415 - an extra of its own
        from spacecompile.data.render.settings import RenderSettings  # noqa: PLC0415
    except ModuleNotFoundError:
        return ()
    height, width = frame_size_px
    settings = RenderSettings(num_frames=max(1, count), split="val", frame_size_px=max(64, *frame_size_px))
    frames = []
    for index in range(count):
        square_HWC = render_frame(settings, index).frame_HWC
        top, left = (square_HWC.shape[0] - height) // 2, (square_HWC.shape[1] - width) // 2
        frame_HWC = np.ascontiguousarray(square_HWC[top : top + height, left : left + width])
        frames.append(ParityFrame(name=f"rendered-{index:03d}", kind="rendered", frame_HWC=frame_HWC))
        progress("frames", index + 1, count)
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
