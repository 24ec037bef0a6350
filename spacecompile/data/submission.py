"""Answers in the form that the benchmark's server takes: one zip with a table of boxes and one array per frame.

detection.csv          filename,class,bbox
<name>_layer.npz       key data, uint8 [H, W, 3]: 255 red where body, 255 blue where panel, else 0
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath
from types import TracebackType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from spacecompile.data.spark import mask_HWC_from_parts
from spacecompile.errors import OutputError, UsageError
from spacecompile.files import FULL_DISK_REMEDY

SUBMISSION_NAME: Final = "submission.zip"
_TABLE_NAME: Final = "detection.csv"
_TABLE_COLUMNS: Final = ("filename", "class", "bbox")

BoxOrder = Literal["xy", "rows"]
"""How the table writes a box: `xy` is (x_min, y_min, x_max, y_max) as in the labels of 2024 and 2026; `rows` is
[r_min, c_min, r_max, c_max] as in those of 2022."""

_ZIP_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def _layer_name(image_name: str) -> str:
    """Name of a frame's array: as its mask is called in the data set, `img_0_img.jpg` to `img_0_layer.npz`."""
    return PurePath(image_name).stem.removesuffix("_img") + "_layer.npz"


def box_text(box_xyxy: NDArray[np.float32], order: BoxOrder) -> str:
    """The table's spelling of a box, rounded to whole pixels as labels are."""
    left, top, right, bottom = (round(edge_px) for edge_px in box_xyxy.tolist())
    return f"[{top}, {left}, {bottom}, {right}]" if order == "rows" else f"({left}, {top}, {right}, {bottom})"


def check_names(image_names: Iterable[str]) -> None:
    """Refuse images that the table could not tell apart.

    Args:
        image_names: File names, with or without folders.

    Raises:
        UsageError: If two have the same file name, or the same name for their array.
    """
    for naming in (lambda name: PurePath(name).name, _layer_name):
        twice = [name for name, count in Counter(map(naming, image_names)).items() if count > 1]
        if twice:
            raise UsageError(
                f"two images would both be {twice[0]} in the submission, which knows no folders. Give one of them only."
            )


class SubmissionWriter:
    """A submission that grows frame by frame; the table is added when it is closed without an error."""

    def __init__(self, path: Path, *, order: BoxOrder = "xy") -> None:
        """Begin a zip file.

        Args:
            path: Zip file to write, in a folder that is there.
            order: Order of a box's numbers.

        Raises:
            OutputError: If it can't be written.
        """
        self._path, self._order = path, order
        self._rows: list[tuple[str, str, str]] = []
        try:
            self._zip = zipfile.ZipFile(path, "w")
        except OSError as error:
            raise OutputError(f"can't write {path}: {error.strerror}. {FULL_DISK_REMEDY}") from error

    def __enter__(self) -> SubmissionWriter:
        return self

    def add(
        self, image_name: str, *, class_name: str, parts_HW: NDArray[np.uint8], box_xyxy: NDArray[np.float32]
    ) -> None:
        """Add one frame's answer.

        Args:
            image_name: File name of the frame; its folders are left out.
            class_name: Likeliest class.
            parts_HW: Parts of the frame, bit 0 body, bit 1 panel.
            box_xyxy: Half-open box in frame pixels.

        Raises:
            OutputError: If it can't be written.
        """
        stream = io.BytesIO()
        np.savez_compressed(stream, data=mask_HWC_from_parts(parts_HW))
        self._write(_layer_name(image_name), stream.getvalue())
        self._rows.append((PurePath(image_name).name, class_name, box_text(box_xyxy, self._order)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            stream = io.StringIO(newline="")
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(_TABLE_COLUMNS)
            writer.writerows(self._rows)
            self._write(_TABLE_NAME, stream.getvalue().encode())
        try:
            self._zip.close()
        except OSError as failure:
            raise OutputError(f"can't write {self._path}: {failure.strerror}. {FULL_DISK_REMEDY}") from failure

    def _write(self, name: str, content: bytes) -> None:
        entry = zipfile.ZipInfo(name, date_time=_ZIP_EPOCH)  # the same answers give the same bytes
        entry.compress_type = zipfile.ZIP_DEFLATED if name == _TABLE_NAME else zipfile.ZIP_STORED
        try:
            self._zip.writestr(entry, content)
        except OSError as error:
            raise OutputError(f"can't write {self._path}: {error.strerror}. {FULL_DISK_REMEDY}") from error
