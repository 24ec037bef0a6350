"""The files of the SPARK formats: frames and masks decoded, and the 2024/2026 layout written.

    ROOT/images/<Class>/<split>/<name>_img.jpg     RGB frame
    ROOT/mask/<Class>/<split>/<name>_layer.jpg     black background, red body, blue panel
    ROOT/<split>.csv                               Image name,Mask name,Class,Bounding box

The tables of labels are read in `labels`.

Layout legend: H rows, W columns, C channels (RGB).
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, UnidentifiedImageError

from spacecompile.data.labels import CSV_COLUMNS, BoxXYXY, LabelledFrame
from spacecompile.errors import DataError, FrameError
from spacecompile.files import write_file

BODY_BIT: Final = 1
PANEL_BIT: Final = 2

# Masks are JPEG: after compression no pixel is exactly 255 or 0, so a channel counts as set above the middle.
_MASK_THRESHOLD: Final = 127
_MASK_JPEG_QUALITY: Final = 95

_BITS_OF_LEVEL: Final = tuple(
    [bit * (level > _MASK_THRESHOLD) for level in range(256)] for bit in (BODY_BIT, PANEL_BIT)
)
"""By grey level of the red and of the blue channel of a mask."""


def read_frame_HWC(path: Path | str) -> NDArray[np.uint8]:
    """Decodes one frame or mask to RGB.

    Returns:
        uint8 [H, W, 3], RGB; grey and palette files are widened.

    Raises:
        DataError: If the file can't be opened.
        FrameError: If its bytes are not a whole image.
    """
    return np.asarray(read_image(path), dtype=np.uint8)


def read_image(path: Path | str) -> Image.Image:
    """Decodes one frame to an RGB image. Errors as for `read_frame_HWC`."""
    with _opened(path) as image:
        return image.convert("RGB")


def image_size_px(path: Path | str) -> tuple[int, int]:
    """(height, width) of a frame or mask, from its header alone. Errors as for `read_frame_HWC`."""
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path | str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise FrameError(f"{path} is not an image that Pillow reads ({error}). Replace or remove the file.") from error
    except OSError as error:
        # Pillow reports a damaged file as an OSError without a number.
        if error.errno is not None:
            raise DataError(f"{path} can't be read ({error.strerror}). Check that the file is there.") from error
        raise FrameError(f"{path} is truncated or damaged ({error}). Replace or remove the file.") from error


def parts_HW_from_mask(mask: Path | str | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Part bits from a red/blue mask, tolerant of JPEG noise.

    A pixel is body where red is above `_MASK_THRESHOLD` and panel where blue is: never by equality.

    Args:
        mask: A mask file, or its uint8 [H, W, 3] pixels.

    Returns:
        uint8 [H, W]; bit 0 body, bit 1 panel.

    Raises:
        DataError: If the file can't be opened.
        FrameError: If it isn't a whole image, or the array isn't uint8 [H, W, 3].
    """
    if not isinstance(mask, np.ndarray):
        return np.array(_parts_image(mask), dtype=np.uint8)
    mask_HWC = mask
    if mask_HWC.ndim != 3 or mask_HWC.shape[2] != 3 or mask_HWC.dtype != np.uint8:
        raise FrameError(
            f"mask has shape {mask_HWC.shape} and dtype {mask_HWC.dtype}; expected uint8 (H, W, 3) RGB. "
            "Read it with read_frame_HWC."
        )
    body_HW = mask_HWC[..., 0] > _MASK_THRESHOLD
    panel_HW = mask_HWC[..., 2] > _MASK_THRESHOLD
    return (body_HW * np.uint8(BODY_BIT) | panel_HW * np.uint8(PANEL_BIT)).astype(np.uint8)


def _parts_image(path: Path | str) -> Image.Image:
    """Part bits of a mask file as a grey image: as `parts_HW_from_mask`, in half of NumPy's time."""
    red, _, blue = read_image(path).split()
    return ImageChops.add(red.point(_BITS_OF_LEVEL[0]), blue.point(_BITS_OF_LEVEL[1]))


def read_parts_HW(frame: LabelledFrame, size_px: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Part bits of a labelled frame; None where its format has no masks.

    Args:
        frame: Labelled frame with its mask on disk.
        size_px: Size of the frame as (height, width).

    Raises:
        DataError: If the mask is missing or has another size.
        FrameError: If it is damaged.
    """
    image = read_parts_image(frame, size_px)
    return None if image is None else np.array(image, dtype=np.uint8)


def read_parts_image(frame: LabelledFrame, size_px: tuple[int, ...]) -> Image.Image | None:
    """As `read_parts_HW`, as a grey image of part bits."""
    if frame.mask_path is None:
        return None
    image = _parts_image(frame.mask_path)
    if (image.height, image.width) != size_px:
        raise DataError(
            f"{frame.image_path} is {size_px} and its mask {frame.mask_path} is {(image.height, image.width)} "
            "(height, width). Replace the one that is wrong."
        )
    return image


def mask_HWC_from_parts(parts_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Red/blue mask from part bits; the inverse of `parts_HW_from_mask`.

    Returns:
        uint8 [H, W, 3]: red where bit 0 (body) is set, blue where bit 1 (panel) is.
    """
    mask_HWC = np.zeros((*parts_HW.shape, 3), dtype=np.uint8)
    mask_HWC[..., 0] = np.where(parts_HW & BODY_BIT, 255, 0)
    mask_HWC[..., 2] = np.where(parts_HW & PANEL_BIT, 255, 0)
    return mask_HWC


def tight_box(parts_HW: NDArray[np.uint8] | NDArray[np.bool_]) -> BoxXYXY | None:
    """Smallest half-open box around every set pixel of a mask; None for an empty mask."""
    rows, columns = np.flatnonzero(parts_HW.any(axis=1)), np.flatnonzero(parts_HW.any(axis=0))
    if not rows.size:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def write_image(path: Path, frame_HWC: NDArray[np.uint8], *, jpeg_quality: int) -> None:
    """Writes a frame as JPEG, atomically.

    Raises:
        OutputError: If the folder or the file can't be written.
    """
    stream = io.BytesIO()
    Image.fromarray(frame_HWC).save(stream, format="JPEG", quality=jpeg_quality)
    write_file(path, stream.getvalue())


def write_mask(path: Path, parts_HW: NDArray[np.uint8], *, note: str = "") -> None:
    """Writes part bits as a red/blue JPEG mask, atomically.

    Chroma is kept at full resolution: with the usual 4:2:0 the colour of thin booms is lost.

    Args:
        path: Mask file to write.
        parts_HW: Parts of the frame, bit 0 body, bit 1 panel.
        note: Text kept as a JPEG comment, for `read_jpeg_note`.

    Raises:
        OutputError: If the folder or the file can't be written.
    """
    stream = io.BytesIO()
    image = Image.fromarray(mask_HWC_from_parts(parts_HW))
    image.save(stream, format="JPEG", quality=_MASK_JPEG_QUALITY, subsampling=0, comment=note)
    write_file(path, stream.getvalue())


def read_jpeg_note(path: Path, size_px: tuple[int, int]) -> str | None:
    """Comment of a whole JPEG file of the given (width, height), else None; pixels are not decoded."""
    try:
        with path.open("rb") as stream:
            stream.seek(-2, os.SEEK_END)
            if stream.read() != b"\xff\xd9":
                return None
            stream.seek(0)
            with Image.open(stream) as image:
                if image.format != "JPEG" or image.size != size_px:
                    return None
                comment = image.info.get("comment", b"")
    except (OSError, SyntaxError, ValueError):
        return None
    return str(comment, "utf-8", "replace") if isinstance(comment, bytes) else str(comment)


def write_split_csv(root: Path, split: str, frames: Iterable[LabelledFrame]) -> Path:
    """Writes `<split>.csv` for frames that already lie under `root`, atomically.

    Returns:
        The path of the csv.

    Raises:
        DataError: If a frame has no parts mask.
        OutputError: If the file can't be written.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for frame in frames:
        box_text = "({}, {}, {}, {})".format(*frame.box_xyxy)
        writer.writerow((frame.image_path.name, frame.required_mask_path.name, frame.class_name, box_text))
    csv_path = root / f"{split}.csv"
    write_file(csv_path, stream.getvalue())
    return csv_path
