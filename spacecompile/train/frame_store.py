"""Decoded frames on disk, in one memory-mapped file that all processes and all runs on the same data share.

A frame is kept at its own size, or at half of it from 1024 px on, with four bytes per pixel: RGB and the coverage of
both parts in steps of 1/15.

Layout legend: N frames, H W rows and columns as stored, 4 bytes of a pixel.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spacecompile.data.labels import LabelledFrame
from spacecompile.errors import DataError, OutputError

FOLDER_NAME: Final = ".spacecompile"
HALVED_FROM_PX: Final = 1024
_BYTES_PER_PIXEL: Final = 4
_COVERAGE_STEPS: Final = 15
_LAYOUT: Final = "frames 1"
"""Part of every file's name in hashed form: another layout never reads this one's files."""

_PACKED: Final = np.round(np.arange(256) * _COVERAGE_STEPS / 255).astype(np.uint8)
_UNPACKED: Final = (np.arange(_COVERAGE_STEPS + 1) * (255 // _COVERAGE_STEPS)).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class DecodedPictures:
    """A frame and what its parts cover, as pictures of one size.

    Attributes:
        image: RGB.
        coverages: Grey pictures of body and panel, 255 where a pixel is covered whole.
        scale: Side of a pixel here in pixels of the camera frame.
    """

    image: Image.Image
    coverages: tuple[Image.Image, ...]
    scale: int = 1


@dataclass(frozen=True)
class FrameStore:
    """Where decoded frames are kept. It travels to other processes as a path.

    Attributes:
        path: The file with all pixels; another beside it says which frames are there.
        shape_N: Frames, rows, columns, bytes of a pixel.
        scale: 2 where frames are kept at half their size, else 1.
    """

    path: Path
    shape_N: tuple[int, int, int, int]
    scale: int

    @cached_property
    def _pixels_NHW4(self) -> NDArray[np.uint8]:
        return np.memmap(self.path, dtype=np.uint8, mode="r+", shape=self.shape_N)

    @cached_property
    def _is_kept_N(self) -> NDArray[np.uint8]:
        return np.memmap(_index_of(self.path), dtype=np.uint8, mode="r+", shape=self.shape_N[:1])

    def __reduce__(self) -> tuple[type[FrameStore], tuple[Path, tuple[int, int, int, int], int]]:
        """Sent without its maps, which would travel as copies of all pixels."""
        return FrameStore, (self.path, self.shape_N, self.scale)

    def read(self, index: int) -> DecodedPictures | None:
        """A frame, or None where it is not kept yet."""
        if not self._is_kept_N[index]:
            return None
        pixels_HW4 = self._pixels_NHW4[index]
        coverage_HW = pixels_HW4[..., 3]
        return DecodedPictures(
            image=Image.fromarray(np.ascontiguousarray(pixels_HW4[..., :3])),
            coverages=tuple(Image.fromarray(_UNPACKED[half]) for half in (coverage_HW >> 4, coverage_HW & 15)),
            scale=self.scale,
        )

    def keep(self, index: int, frame: DecodedPictures) -> None:
        """Keep a frame at full size; one of another size than the first of its split is left out.

        Args:
            index: Place of the frame in its split.
            frame: As decoded from its files.
        """
        pictures = [picture.reduce(self.scale) if self.scale > 1 else picture for picture in _pictures(frame)]
        if pictures[0].size != (self.shape_N[2], self.shape_N[1]):
            return
        image_HWC, body_HW, panel_HW = (np.asarray(picture) for picture in pictures)
        packed_HW = (_PACKED[body_HW] << 4) | _PACKED[panel_HW]
        self._pixels_NHW4[index] = np.dstack([image_HWC, packed_HW])
        self._is_kept_N[index] = 1  # last: a frame that is half written is not there


def _pictures(frame: DecodedPictures) -> tuple[Image.Image, ...]:
    return frame.image, *frame.coverages


def frame_store(frames: Sequence[LabelledFrame], root: Path) -> FrameStore:
    """The store of a split, made empty if there is none for exactly these files.

    Args:
        frames: Of the split, in the order of their indices.
        root: Folder of the data; the store lies in a hidden folder there.

    Raises:
        DataError: If the first frame can't be read.
        OutputError: If the folder can't be written, or the disk has no room.
    """
    try:
        with Image.open(frames[0].image_path) as image:
            width_px, height_px = image.size
    except OSError as error:
        raise DataError(f"can't read {frames[0].image_path}: {error}. Replace the file.") from error
    scale = 2 if min(width_px, height_px) >= HALVED_FROM_PX and width_px % 2 == height_px % 2 == 0 else 1
    shape_N = (len(frames), height_px // scale, width_px // scale, _BYTES_PER_PIXEL)
    store = FrameStore(root / FOLDER_NAME / f"{_key(frames, shape_N)}.frames", shape_N, scale)
    _make_files(store)
    return store


def _index_of(path: Path) -> Path:
    return path.with_suffix(".kept")


def _key(frames: Sequence[LabelledFrame], shape_N: tuple[int, ...]) -> str:
    """Changes with any file's path, size or time."""
    digest = hashlib.sha256(repr((_LAYOUT, shape_N)).encode())
    for frame in frames:
        for path in (frame.image_path, frame.mask_path):
            if path is not None and path.exists():
                status = path.stat()
                digest.update(repr((path.as_posix(), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def _make_files(store: FrameStore) -> None:
    """Files of the right size that take no room until frames are kept."""
    pixels_bytes = int(np.prod(store.shape_N))
    index = _index_of(store.path)
    try:
        store.path.parent.mkdir(parents=True, exist_ok=True)
        if not (store.path.exists() and index.exists()):
            free_bytes = shutil.disk_usage(store.path.parent).free
            if free_bytes < pixels_bytes:
                raise OutputError(
                    f"decoded frames take {pixels_bytes / 2**30:.1f} GiB, and {store.path.parent} has "
                    f"{free_bytes / 2**30:.1f} GiB left. Use --cache none, or fewer frames (--limit-frames)."
                )
        for path, size_bytes in ((store.path, pixels_bytes), (index, store.shape_N[0])):
            with path.open("ab") as stream:  # another process may be making it too: never emptied
                if path.stat().st_size < size_bytes:
                    stream.truncate(size_bytes)
    except OSError as error:
        raise OutputError(
            f"can't keep decoded frames in {store.path.parent}: {error.strerror}. Use --cache none, or make the folder "
            "writable."
        ) from error
