"""The SPARK 2024/2026 on-disk format, read and written.

    ROOT/images/<Class>/<split>/<name>_img.jpg     RGB frame
    ROOT/mask/<Class>/<split>/<name>_layer.jpg     black background, red body, blue panel
    ROOT/<split>.csv                               Image name,Mask name,Class,Bounding box

Layout legend: H rows, W columns, C channels (RGB).
"""

from __future__ import annotations

import ast
import csv
import io
import operator
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from spacecompile.contract import SPARK_CLASSES
from spacecompile.errors import DataError, FrameError
from spacecompile.files import write_file

BODY_BIT: Final = 1
PANEL_BIT: Final = 2

IMAGE_COLUMN: Final = "Image name"
MASK_COLUMN: Final = "Mask name"
CLASS_COLUMN: Final = "Class"
BOX_COLUMN: Final = "Bounding box"
CSV_COLUMNS: Final = (IMAGE_COLUMN, MASK_COLUMN, CLASS_COLUMN, BOX_COLUMN)

SPLITS: Final = ("train", "val")

# Masks are JPEG: after compression no pixel is exactly 255 or 0, so a channel counts as set above the middle.
MASK_THRESHOLD: Final = 127
MASK_JPEG_QUALITY: Final = 95


BoxXYXY: TypeAlias = tuple[int, int, int, int]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LabelledFrame:
    """One row of a split.

    Attributes:
        image_path: The frame.
        mask_path: Its parts mask.
        class_name: One of `SPARK_CLASSES`.
        box_xyxy: Half-open box in frame pixels.
    """

    image_path: Path
    mask_path: Path
    class_name: str
    box_xyxy: BoxXYXY


def image_path(root: Path, class_name: str, split: str, image_name: str) -> Path:
    """Where a frame of a split lies."""
    return root / "images" / class_name / split / image_name


def mask_path(root: Path, class_name: str, split: str, mask_name: str) -> Path:
    """Where a parts mask of a split lies."""
    return root / "mask" / class_name / split / mask_name


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` items, evenly spread and the first included: a split sorted by class keeps its classes.

    Args:
        items: In order.
        limit: None for all.
    """
    count = len(items) if limit is None else min(limit, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def read_split(root: Path | str, split: str) -> list[LabelledFrame]:
    """Every labelled frame of a split, in the order of its csv.

    Rows of `._*` files (macOS archive leftovers in the published archives) are left out.

    Args:
        root: Folder that holds `images/`, `mask/` and `<split>.csv`.
        split: `train` or `val`.

    Raises:
        DataError: If the csv or a file that it names is missing, or a row is malformed; names the csv line.
    """
    root = Path(root)
    csv_path = root / f"{split}.csv"
    frames: list[LabelledFrame] = []
    with _rows(root, split) as reader:
        _check_header(csv_path, reader.fieldnames)
        for row in reader:
            if (row[IMAGE_COLUMN] or "").startswith("._"):
                continue
            frames.append(_labelled_frame_from_row(root, split, row, f"{csv_path}, line {reader.line_num}"))
    if not frames:
        raise DataError(f"{csv_path} holds no frame. Render or copy at least one frame into the {split} split.")
    return frames


def num_rows(root: Path, split: str) -> int:
    """Rows of a split's csv, whether its files are there or not; 0 without a csv.

    Raises:
        DataError: If the csv can't be read.
    """
    if not (root / f"{split}.csv").exists():
        return 0
    with _rows(root, split) as reader:
        return sum(1 for _ in reader)


@contextmanager
def _rows(root: Path, split: str) -> Iterator[csv.DictReader[str]]:
    csv_path = root / f"{split}.csv"
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as stream:
            yield csv.DictReader(stream)
    except OSError as error:
        command = f" -o {shlex.quote(str(root))} --split {split}" if split in SPLITS else " -o DIR --split val"
        raise DataError(
            f"{csv_path} can't be read ({error.strerror}). Point --data at a folder with images/, mask/ and "
            f"{split}.csv, or make one with `spacecompile render{command}`."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{csv_path} is not a UTF-8 csv file ({error}). Export it again as UTF-8 text.") from error


def _check_header(csv_path: Path, columns: Sequence[str] | None) -> None:
    missing = [column for column in CSV_COLUMNS if column not in (columns or ())]
    if missing:
        raise DataError(
            f"{csv_path}, line 1: the header is {list(columns or ())} and lacks {missing}. "
            f"Make the first line {','.join(CSV_COLUMNS)!r}."
        )


def _labelled_frame_from_row(root: Path, split: str, row: Mapping[str, str | None], where: str) -> LabelledFrame:
    image_name, mask_name, class_name, box_text = (row[column] for column in CSV_COLUMNS)
    if not (image_name and mask_name and class_name and box_text):
        raise DataError(f"{where}: a field is empty. Every row needs {', '.join(CSV_COLUMNS)}.")
    if class_name not in SPARK_CLASSES:
        raise DataError(f"{where}: class {class_name!r} is unknown. Use one of {', '.join(SPARK_CLASSES)}.")
    for name in (image_name, mask_name):
        if PurePath(name).name != name:
            raise DataError(f"{where}: {name!r} is not a plain file name. Leave its folders out.")
    paths = (image_path(root, class_name, split, image_name), mask_path(root, class_name, split, mask_name))
    for path in paths:
        if not path.is_file():
            raise DataError(f"{where}: {path} does not exist. Restore the file or remove the line.")
    return LabelledFrame(
        image_path=paths[0],
        mask_path=paths[1],
        class_name=class_name,
        box_xyxy=_box_from_text(box_text, where),
    )


def _box_from_text(box_text: str, where: str) -> BoxXYXY:
    advice = 'Write it as "(x_min, y_min, x_max, y_max)", quotes included, in whole frame pixels.'
    try:
        x_min, y_min, x_max, y_max = (operator.index(value) for value in ast.literal_eval(box_text.strip()))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"{where}: the box is {box_text!r}. {advice}") from error
    if x_min < 0 or y_min < 0 or x_max <= x_min or y_max <= y_min:
        raise DataError(f"{where}: the box {box_text!r} is empty, negative or has its corners swapped. {advice}")
    return x_min, y_min, x_max, y_max


def read_frame_HWC(path: Path | str) -> NDArray[np.uint8]:
    """Decodes one frame or mask to RGB.

    Returns:
        uint8 [H, W, 3], RGB; grey and palette files are widened.

    Raises:
        DataError: If the file can't be opened.
        FrameError: If its bytes are not a whole image.
    """
    with _opened(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.uint8)


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
        if error.errno is not None:
            raise DataError(f"{path} can't be read ({error.strerror}). Check that the file is there.") from error
        raise FrameError(f"{path} is truncated or damaged ({error}). Replace or remove the file.") from error


def parts_HW_from_mask(mask: Path | str | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Part bits from a red/blue mask, tolerant of JPEG noise.

    A pixel is body where red is above `MASK_THRESHOLD` and panel where blue is: never by equality.

    Args:
        mask: A mask file, or its uint8 [H, W, 3] pixels.

    Returns:
        uint8 [H, W]; bit 0 body, bit 1 panel.

    Raises:
        DataError: If the file can't be opened.
        FrameError: If it isn't a whole image, or the array isn't uint8 [H, W, 3].
    """
    mask_HWC = mask if isinstance(mask, np.ndarray) else read_frame_HWC(mask)
    if mask_HWC.ndim != 3 or mask_HWC.shape[2] != 3 or mask_HWC.dtype != np.uint8:
        raise FrameError(
            f"mask has shape {mask_HWC.shape} and dtype {mask_HWC.dtype}; expected uint8 (H, W, 3) RGB. "
            "Read it with read_frame_HWC."
        )
    body_HW = mask_HWC[..., 0] > MASK_THRESHOLD
    panel_HW = mask_HWC[..., 2] > MASK_THRESHOLD
    return (body_HW * np.uint8(BODY_BIT) | panel_HW * np.uint8(PANEL_BIT)).astype(np.uint8)


def mask_HWC_from_parts(parts_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Red/blue mask from part bits; the inverse of `parts_HW_from_mask`.

    Returns:
        uint8 [H, W, 3]: red where bit 0 (body) is set, blue where bit 1 (panel) is.
    """
    mask_HWC = np.zeros((*parts_HW.shape, 3), dtype=np.uint8)
    mask_HWC[..., 0] = np.where(parts_HW & BODY_BIT, 255, 0)
    mask_HWC[..., 2] = np.where(parts_HW & PANEL_BIT, 255, 0)
    return mask_HWC


def box_text_from_xyxy(box_xyxy: BoxXYXY) -> str:
    """The csv spelling of a box: `(x_min, y_min, x_max, y_max)`."""
    return "({}, {}, {}, {})".format(*box_xyxy)


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
        path: The mask file.
        parts_HW: Bit 0 body, bit 1 panel.
        note: Text kept as a JPEG comment, for `read_jpeg_note`.

    Raises:
        OutputError: If the folder or the file can't be written.
    """
    stream = io.BytesIO()
    image = Image.fromarray(mask_HWC_from_parts(parts_HW))
    image.save(stream, format="JPEG", quality=MASK_JPEG_QUALITY, subsampling=0, comment=note)
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
        OutputError: If the file can't be written.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for frame in frames:
        box_text = box_text_from_xyxy(frame.box_xyxy)
        writer.writerow((frame.image_path.name, frame.mask_path.name, frame.class_name, box_text))
    csv_path = root / f"{split}.csv"
    write_file(csv_path, stream.getvalue())
    return csv_path
