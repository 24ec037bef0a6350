"""Decoded frames on disk, in one memory-mapped file that all processes and all runs on the same data share.

A frame is kept at its own size, or at half of it where that still fills the network's input, with four bytes per pixel:
RGB and the coverage of both parts in steps of 1/15.

Layout legend: H W rows and columns as stored, C colours.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import sys
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spacecompile.data.labels import LabelledFrame
from spacecompile.data.spark import image_size_px
from spacecompile.errors import DataError, FrameError, OutputError

log = logging.getLogger(__name__)

FOLDER_NAME: Final = ".spacecompile"
_BYTES_PER_PIXEL: Final = 4
_CHECKSUM_BYTES: Final = 4
_COVERAGE_STEPS: Final = 15
_LAYOUT: Final = "frames 3"
"""Part of every file's name in hashed form: another layout never reads this one's files."""

_PACKED: Final = np.round(np.arange(256) * _COVERAGE_STEPS / 255).astype(np.uint8)
_HIGH: Final = [(value >> 4) * (255 // _COVERAGE_STEPS) for value in range(256)]
_LOW: Final = [(value & 15) * (255 // _COVERAGE_STEPS) for value in range(256)]


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

    The file holds the frames one after the other, each as interleaved RGB and then the coverages, and behind them a
    checksum of each: 0 where a frame is not there. Pixels that never reached the disk, after a power cut, fail theirs
    and are decoded again.

    Attributes:
        path: The file.
        num_frames: Number of frames that it has room for.
        size_px: (height, width) of the kept pictures.
        scale: 2 where frames are kept at half their size, else 1.
    """

    path: Path
    num_frames: int
    size_px: tuple[int, int]
    scale: int

    @property
    def _frame_bytes(self) -> int:
        return _BYTES_PER_PIXEL * math.prod(self.size_px)

    @property
    def whole_bytes(self) -> int:
        """Size of the file."""
        return self.num_frames * (self._frame_bytes + _CHECKSUM_BYTES)

    @cached_property
    def _frames(self) -> NDArray[np.uint8]:
        return np.memmap(self.path, dtype=np.uint8, mode="r", shape=(self.num_frames, self._frame_bytes))

    @cached_property
    def _checksums(self) -> NDArray[np.uint32]:
        start = self.num_frames * self._frame_bytes
        return np.memmap(self.path, dtype=np.uint32, mode="r", offset=start, shape=(self.num_frames,))

    def __reduce__(self) -> tuple[type[FrameStore], tuple[Path, int, tuple[int, int], int]]:
        """Sent without its maps, which would travel as copies of all pixels."""
        return FrameStore, (self.path, self.num_frames, self.size_px, self.scale)

    def read(self, index: int) -> DecodedPictures | None:
        """A frame, or None where it is not kept, or not whole."""
        if not self._checksums[index] or _checksum(self._frames[index].data) != self._checksums[index]:
            return None
        picture_px = (self.size_px[1], self.size_px[0])
        rgb, packed = np.split(self._frames[index], [3 * math.prod(self.size_px)])
        coverages = Image.frombuffer("L", picture_px, packed)
        return DecodedPictures(
            image=Image.frombuffer("RGB", picture_px, rgb),
            coverages=tuple(coverages.point(table) for table in (_HIGH, _LOW)),
            scale=self.scale,
        )

    def keep(self, index: int, frame: DecodedPictures) -> None:
        """Keep a frame; one of another size than the first of its split is left out.

        Written and not mapped, so that a full disk is an error and no signal.

        Args:
            index: Place of the frame in its split.
            frame: Pictures at full size, as decoded from the frame's files.

        Raises:
            OutputError: If the file can't be written.
        """
        if frame.image.size != (self.size_px[1] * self.scale, self.size_px[0] * self.scale):
            return
        pictures = (frame.image, *frame.coverages)
        image_HWC, body_HW, panel_HW = (
            np.asarray(picture.reduce(self.scale) if self.scale > 1 else picture) for picture in pictures
        )
        content = image_HWC.tobytes() + ((_PACKED[body_HW] << 4) | _PACKED[panel_HW]).tobytes()
        checksum = _checksum(content).to_bytes(_CHECKSUM_BYTES, sys.byteorder)
        try:
            with self.path.open("r+b", buffering=0) as stream:
                os.pwrite(stream.fileno(), content, index * self._frame_bytes)
                checksums_start = self.num_frames * self._frame_bytes
                os.pwrite(stream.fileno(), checksum, checksums_start + index * _CHECKSUM_BYTES)
        except OSError as error:
            raise OutputError(
                f"can't keep decoded frames in {self.path}: {error.strerror}. Make room, or use --cache none."
            ) from error


def _checksum(content: bytes | memoryview) -> int:
    return zlib.crc32(content) or 1


def frame_store(frames: Sequence[LabelledFrame], root: Path, input_size_px: tuple[int, int]) -> FrameStore:
    """The store of a split, made empty if there is none for exactly these files.

    Args:
        frames: Labelled frames of the split, in the order of their indices.
        root: Folder of the data; the store lies in a hidden folder there.
        input_size_px: (height, width) of the network's input: frames are kept at half their size where that is no less.

    Raises:
        DataError: If no frame can be read.
        OutputError: If the folder can't be written, or the disk has no room.
    """
    height_px, width_px = _size_px(frames)
    halves = ((height_px / 2, input_size_px[0]), (width_px / 2, input_size_px[1]))
    scale = 2 if all(half == round(half) and half >= needed for half, needed in halves) else 1
    size_px = (height_px // scale, width_px // scale)
    path = root / FOLDER_NAME / f"{_key(frames, root, size_px)}.frames"
    store = FrameStore(path, len(frames), size_px, scale)
    _make_file(store)
    return store


def _size_px(frames: Sequence[LabelledFrame]) -> tuple[int, int]:
    """Height and width of the first frame that can be read."""
    for frame in frames:
        with suppress(FrameError, DataError):
            return image_size_px(frame.image_path)
    raise DataError(f"none of {len(frames)} frames can be read, the first {frames[0].image_path}. Check --data.")


def _key(frames: Sequence[LabelledFrame], root: Path, size_px: tuple[int, int]) -> str:
    """Changes with any file's name, size or time, and not with the way to the folder."""
    digest = hashlib.sha256(repr((_LAYOUT, size_px)).encode())
    for frame in frames:
        for path in (frame.image_path, frame.mask_path):
            if path is not None and path.exists():
                status = path.stat()
                digest.update(repr((os.path.relpath(path, root), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def _make_file(store: FrameStore) -> None:
    """A file of the right size that takes no room until frames are kept."""
    folder, whole_bytes = store.path.parent, store.whole_bytes
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if store.path.exists() and store.path.stat().st_size == whole_bytes:
            return
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < whole_bytes:
            raise OutputError(
                f"decoded frames take {whole_bytes / 2**30:.1f} GiB, and {folder} has {free_bytes / 2**30:.1f} GiB "
                "left. Make room, or use --cache none or fewer frames (--limit-frames)."
            )
        if others := [path for path in folder.glob("*.frames") if path != store.path]:
            taken_bytes = sum(path.stat().st_blocks * 512 for path in others)
            log.warning(
                "%s holds frames of %d other selections, %.1f GiB; delete those that no run needs",
                *(folder, len(others), taken_bytes / 2**30),
            )
        with store.path.open("ab") as stream:  # another process may be making it too: never emptied
            stream.truncate(whole_bytes)
    except OSError as error:
        raise OutputError(
            f"can't keep decoded frames in {folder}: {error.strerror}. Use --cache none, or make the folder writable."
        ) from error
