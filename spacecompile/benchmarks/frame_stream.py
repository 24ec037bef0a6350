"""Frames to measure on: a stream of different ones in memory, from a labelled folder or from the bundle itself.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spacecompile.data.labels import LabelledFrame, read_split, spread
from spacecompile.data.spark import read_frame_HWC
from spacecompile.errors import DataError, UsageError
from spacecompile.runtime.bundle import Bundle


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameStream:
    """Different frames of one size.

    Attributes:
        names: Names of the files.
        frames_HWC: uint8 RGB.
        source: Where they came from, for the results file.
        paths: Paths of the frames' files.
    """

    names: tuple[str, ...]
    frames_HWC: tuple[NDArray[np.uint8], ...]
    source: str
    paths: tuple[Path, ...] = ()


def labelled_frames(data: Path, split: str, limit: int | None) -> list[LabelledFrame]:
    """Frames of a split, spread evenly over it when there are more than the limit.

    Raises:
        DataError: If the folder is not in the SPARK format or empty.
        UsageError: If the limit is below one.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; at least one frame is needed. Check --limit.")
    frames = read_split(data, split)
    return spread(frames, limit)


def stream_from_data(data: Path, split: str, frame_size_px: tuple[int, int], limit: int) -> FrameStream:
    """Decode up to `limit` frames of a split.

    Raises:
        DataError: If a frame has another size than the bundle takes.
    """
    frames = labelled_frames(data, split, limit)
    decoded = tuple(frame_of_size(frame.image_path, frame_size_px) for frame in frames)
    return FrameStream(
        names=tuple(frame.image_path.name for frame in frames),
        frames_HWC=decoded,
        source=f"{data.name}, split {split}",
        paths=tuple(frame.image_path for frame in frames),
    )


def frame_of_size(path: Path, frame_size_px: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode a frame that must have a size.

    Raises:
        DataError: If it has another size.
    """
    # Pillow's pixels are read-only, which torch refuses to share.
    frame_HWC = read_frame_HWC(path).copy()
    check_size(path, frame_HWC.shape[:2], frame_size_px)
    return frame_HWC


def check_size(path: Path, size_px: tuple[int, ...], frame_size_px: tuple[int, int]) -> None:
    """Refuse a file of another (height, width) than the bundle's.

    Raises:
        DataError: If it has one.
    """
    if size_px != frame_size_px:
        raise DataError(
            f"{path} is {size_px[0]}x{size_px[1]} pixels (height x width); the network takes "
            f"{frame_size_px[0]}x{frame_size_px[1]}. Choose other frames with --data, or build with --frame."
        )


def stream_from_bundle(bundle: Bundle, limit: int) -> FrameStream:
    """The bundle's own self-test frames.

    Raises:
        UsageError: If it holds none of the frame's size.
    """
    frame_size_px = bundle.manifest.spec.frame_size_px
    paths = sorted(path for path in bundle.manifest.files if path.startswith("selftest/") and path.endswith(".png"))
    frames = []
    for path in paths[:limit]:
        with Image.open(io.BytesIO(bundle.read(path))) as image:
            frames.append((PurePosixPath(path).name, np.array(image.convert("RGB"), dtype=np.uint8)))
    fitting = [(name, frame_HWC) for name, frame_HWC in frames if frame_HWC.shape[:2] == frame_size_px]
    if not fitting:
        raise UsageError(
            f"{bundle.root} holds no self-test frames. Give frames in the SPARK format with --data DIR, for example "
            "those that `spacecompile render -o DIR --split val` makes."
        )
    return FrameStream(
        names=tuple(name for name, _ in fitting),
        frames_HWC=tuple(frame_HWC for _, frame_HWC in fitting),
        source="self-test frames of the bundle",
        paths=tuple(bundle.root / "selftest" / name for name, _ in fitting),
    )
