"""Label tables: what a split's csv says of each frame, in every SPARK format, told apart by the header.

    2024, 2026   Image name,Mask name,Class,Bounding box   "(x_min, y_min, x_max, y_max)", parts masks
    2022         filename,class,bbox                       "[r_min, c_min, r_max, c_max]", no masks

    2024, 2026   ROOT/<split>.csv   ROOT/images/<Class>/<split>/<name>   ROOT/mask/<Class>/<split>/<name>
    2022         ROOT/<split>.csv or ROOT/labels/<split>.csv             ROOT/<split>/<name>

Participants number the classes in different orders, so a class is its name here; the order is the checkpoint's.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import operator
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final, TypeAlias, TypeVar

from spacecompile.contract import SPARK_CLASSES
from spacecompile.data.broken import BrokenFile, BrokenFiles
from spacecompile.errors import DataError

_IMAGE_COLUMN: Final = "Image name"
_MASK_COLUMN: Final = "Mask name"
_CLASS_COLUMN: Final = "Class"
_BOX_COLUMN: Final = "Bounding box"
CSV_COLUMNS: Final = (_IMAGE_COLUMN, _MASK_COLUMN, _CLASS_COLUMN, _BOX_COLUMN)

SPLITS: Final = ("train", "val")

SPARK_2022_CLASSES: Final = (
    "smart_1",
    "cheops",
    "lisa_pathfinder",
    "debris",
    "proba_3_ocs",
    "proba_3_csc",
    "soho",
    "earth_observation_sat_1",
    "proba_2",
    "xmm_newton",
    "double_star",
)
"""Classes in the order of most participants' code; the published archive gives no order."""

_IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg")

BoxXYXY: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class LabelledFrame:
    """One row of a split.

    Attributes:
        image_path: File of the frame.
        mask_path: Parts mask of the frame; None where the format has none, so that it teaches class and box only.
        class_name: Class of the craft, one of the format's.
        box_xyxy: Half-open box in frame pixels.
    """

    image_path: Path
    mask_path: Path | None
    class_name: str
    box_xyxy: BoxXYXY

    @property
    def has_parts(self) -> bool:
        """Whether its parts are labelled."""
        return self.mask_path is not None

    @property
    def required_mask_path(self) -> Path:
        """The parts mask, where nothing can be done without one.

        Raises:
            DataError: If there is none.
        """
        if self.mask_path is None:
            raise DataError(
                f"{self.image_path} has no parts mask, which is needed here. Use frames of the SPARK 2024/2026 format."
            )
        return self.mask_path


@dataclass(frozen=True, kw_only=True)
class LabelFormat:
    """One way of writing a split down.

    Attributes:
        name: Name for people.
        columns: Columns that the header must have; others are ignored.
        classes: Classes in their usual order.
        has_parts: Whether every frame has a parts mask.
        box_example: Spelling of a box, for messages.
        is_row_first: Whether a box names rows before columns.
        paths: Function from root, split and row to the frame and its mask.
    """

    name: str
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    has_parts: bool
    box_example: str
    is_row_first: bool
    paths: Callable[[Path, str, Mapping[str, str]], tuple[Path, Path | None]]


@dataclass(frozen=True, kw_only=True)
class Split:
    """What a split's csv holds.

    Attributes:
        rows: Every row, in the order of the csv, whether its files are there or not.
        frames: Frames whose files are there.
        broken: Rows whose files are missing.
        format: Format of the csv.
        rows_sha256: SHA-256 of names, classes and boxes of all rows in order, whether their files are there or not: it
            tells data sets apart, wherever their folders are.
    """

    rows: tuple[LabelledFrame, ...]
    frames: tuple[LabelledFrame, ...]
    broken: tuple[BrokenFile, ...]
    format: LabelFormat
    rows_sha256: str

    def spread(self, limit: int) -> list[LabelledFrame]:
        """Frames spread over all rows, so that a lost file changes no other choice; the next free one stands in for it.

        Args:
            limit: Largest number of frames; 0 for all.
        """
        there = {frame.image_path for frame in self.frames}
        usable = [row.image_path in there for row in self.rows]
        if not limit or limit >= sum(usable):
            return list(self.frames)
        chosen = dict.fromkeys(spread(range(len(self.rows)), limit))
        free = {index for index, is_there in enumerate(usable) if is_there} - chosen.keys()
        for index in [index for index in chosen if not usable[index]]:
            del chosen[index]
            stand_in = min(free, key=lambda other: (other - index) % len(self.rows))
            free.remove(stand_in)
            chosen[stand_in] = None
        return [self.rows[index] for index in sorted(chosen)]


def image_path(root: Path, class_name: str, split: str, image_name: str) -> Path:
    """Where a frame of a SPARK 2024/2026 split lies."""
    return root / "images" / class_name / split / image_name


def mask_path(root: Path, class_name: str, split: str, mask_name: str) -> Path:
    """Where a parts mask of a SPARK 2024/2026 split lies."""
    return root / "mask" / class_name / split / mask_name


def _paths_of_2024(root: Path, split: str, row: Mapping[str, str]) -> tuple[Path, Path | None]:
    class_name = row[_CLASS_COLUMN]
    return (
        image_path(root, class_name, split, row[_IMAGE_COLUMN]),
        mask_path(root, class_name, split, row[_MASK_COLUMN]),
    )


def _paths_of_2022(root: Path, split: str, row: Mapping[str, str]) -> tuple[Path, Path | None]:
    """The csv says .png throughout; smaller copies of the archive hold the same names as .jpg."""
    named = root / split / row["filename"]
    candidates = (named, *(named.with_suffix(suffix) for suffix in _IMAGE_SUFFIXES))
    return next((path for path in candidates if path.is_file()), named), None


SPARK_2024: Final = LabelFormat(
    name="SPARK 2024/2026",
    columns=CSV_COLUMNS,
    classes=SPARK_CLASSES,
    has_parts=True,
    box_example='"(x_min, y_min, x_max, y_max)"',
    is_row_first=False,
    paths=_paths_of_2024,
)
SPARK_2022: Final = LabelFormat(
    name="SPARK 2022",
    columns=("filename", "class", "bbox"),
    classes=SPARK_2022_CLASSES,
    has_parts=False,
    box_example='"[r_min, c_min, r_max, c_max]"',
    is_row_first=True,
    paths=_paths_of_2022,
)
_FORMATS: Final = (SPARK_2024, SPARK_2022)


T = TypeVar("T")


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` items, evenly spread and the first included: a split sorted by class keeps its classes.

    Args:
        items: Items in order.
        limit: Largest number of items; None for all.
    """
    count = len(items) if limit is None else min(limit, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def read_split(root: Path | str, split: str) -> list[LabelledFrame]:
    """Every usable labelled frame of a split, in the order of its csv.

    Args:
        root: Root of a data set in the SPARK format.
        split: Name of the split, `train` or `val`.

    Raises:
        DataError: If the split is not there, can't be read, or too much of it is broken.
    """
    return list(usable_split(root, split).frames)


def usable_split(root: Path | str, split: str) -> Split:
    """As `scan_split`, for work that needs the files: rows whose files are missing are logged.

    Args:
        root: Folder of the data set.
        split: Name of the split, `train` or `val`.

    Raises:
        DataError: As `scan_split`, and if 1 % of the files or more are missing.
    """
    found = scan_split(root, split)
    tally = BrokenFiles(len(found.frames) + len(found.broken), name=f"the {split} split of {root}")
    for broken in found.broken:
        tally.add(broken)
    return found


def scan_split(root: Path | str, split: str) -> Split:
    """Read a split's csv and look for the files that it names; nothing is decoded.

    Rows of `._*` files (macOS archive leftovers in the published archives) are left out.

    Args:
        root: Folder of the data set.
        split: Name of the split, `train` or `val`.

    Raises:
        DataError: If the csv is missing, of no known format or empty, or a row is malformed; names the csv line.
    """
    root = Path(root)
    csv_path = _csv_path(root, split)
    rows: list[LabelledFrame] = []
    frames: list[LabelledFrame] = []
    broken: list[BrokenFile] = []
    digest = hashlib.sha256()
    with _rows(root, split) as reader:
        label_format = _format_of(csv_path, reader.fieldnames)
        for row in reader:
            if (row[label_format.columns[0]] or "").startswith("._"):
                continue
            where = f"{csv_path}, line {reader.line_num}"
            fields = _checked(row, label_format, where)
            frame = _frame_from_row(root, split, fields, label_format, where)
            rows.append(frame)
            digest.update(_digested(fields, frame))
            missing = next((path for path in (frame.image_path, frame.mask_path) if path and not path.is_file()), None)
            if missing is None:
                frames.append(frame)
            else:
                broken.append(BrokenFile(path=missing, reason=f"{where}: {missing} does not exist"))
    if not rows:
        raise DataError(f"{csv_path} holds no frame. Render or copy at least one frame into the {split} split.")
    return Split(
        rows=tuple(rows),
        frames=tuple(frames),
        broken=tuple(broken),
        format=label_format,
        rows_sha256=digest.hexdigest(),
    )


def _digested(fields: Mapping[str, str], frame: LabelledFrame) -> bytes:
    """A row as bytes: names as the csv has them, since files of other suffixes are found too; boxes as numbers."""
    *names_and_class, _ = fields.values()
    return ("\t".join((*names_and_class, *map(str, frame.box_xyxy))) + "\n").encode()


def classes_of(frames: Sequence[LabelledFrame]) -> tuple[str, ...]:
    """The usual class order of the first format that has all classes of some frames.

    Raises:
        DataError: If they are of different formats.
    """
    named = {frame.class_name for frame in frames}
    fitting = next((entry.classes for entry in _FORMATS if named <= set(entry.classes)), None)
    if fitting is None:
        raise DataError(
            f"the frames have classes {sorted(named)}, which are those of no one format. Train on one data set at a "
            "time, or give the order with --classes."
        )
    return fitting


def num_rows(root: Path, split: str) -> int:
    """Rows of a split's csv, whether its files are there or not; 0 without a csv.

    Raises:
        DataError: If the csv can't be read.
    """
    if not _csv_path(root, split).exists():
        return 0
    with _rows(root, split) as reader:
        return sum(1 for _ in reader)


def _csv_path(root: Path, split: str) -> Path:
    plain, nested = root / f"{split}.csv", root / "labels" / f"{split}.csv"
    return nested if nested.exists() and not plain.exists() else plain


@contextmanager
def _rows(root: Path, split: str) -> Iterator[csv.DictReader[str]]:
    csv_path = _csv_path(root, split)
    try:
        # Spreadsheets put a byte order mark before UTF-8, which -sig takes off.
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


def _format_of(csv_path: Path, columns: Sequence[str] | None) -> LabelFormat:
    """The format whose columns the header has; without one an error names what the nearest one lacks."""
    given = set(columns or ())
    nearest = max(_FORMATS, key=lambda entry: len(given & set(entry.columns)))
    missing = [column for column in nearest.columns if column not in given]
    if missing:
        headers = " or ".join(f"{','.join(entry.columns)!r} ({entry.name})" for entry in _FORMATS)
        raise DataError(
            f"{csv_path}, line 1: the header is {list(columns or ())} and lacks {missing}. "
            f"Make the first line {headers}."
        )
    return nearest


def _checked(row: Mapping[str, str | None], label_format: LabelFormat, where: str) -> dict[str, str]:
    """The row's known fields, checked: all filled, with plain file names and a class that the format has."""
    fields = {column: row[column] or "" for column in label_format.columns}
    if not all(fields.values()):
        raise DataError(f"{where}: a field is empty. Every row needs {', '.join(label_format.columns)}.")
    *names, class_name, _ = fields.values()
    if class_name not in label_format.classes:
        raise DataError(f"{where}: class {class_name!r} is unknown. Use one of {', '.join(label_format.classes)}.")
    for name in names:
        if PurePath(name).name != name:
            raise DataError(f"{where}: {name!r} is not a plain file name. Leave its folders out.")
    return fields


def _frame_from_row(
    root: Path, split: str, row: Mapping[str, str], label_format: LabelFormat, where: str
) -> LabelledFrame:
    *_, class_name, box_text = row.values()
    frame_path, parts_path = label_format.paths(root, split, row)
    return LabelledFrame(
        image_path=frame_path,
        mask_path=parts_path,
        class_name=class_name,
        box_xyxy=_box_from_text(box_text, label_format, where),
    )


def _box_from_text(box_text: str, label_format: LabelFormat, where: str) -> BoxXYXY:
    advice = f"Write it as {label_format.box_example}, quotes included, in whole frame pixels."
    try:
        # `index` takes 3 and refuses 3.0: a box with fractions is in other units.
        first, second, third, fourth = (operator.index(value) for value in ast.literal_eval(box_text.strip()))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"{where}: the box is {box_text!r}. {advice}") from error
    if min(first, second) < 0 or third <= first or fourth <= second:
        raise DataError(f"{where}: the box {box_text!r} is empty, negative or has its corners swapped. {advice}")
    return (second, first, fourth, third) if label_format.is_row_first else (first, second, third, fourth)
