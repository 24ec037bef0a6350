"""Labelled frames as a COCO instances document, which most annotation and detection tools read.

Source of the format: https://cocodataset.org/#format-data. One annotation per frame is the spacecraft, with the box of
the label and the union of the parts as its mask; one more per part that can be seen is the part alone.

Layout legend: H, W frame rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import PARTS, Progress, no_progress
from spacecompile.data.broken import BrokenFile, BrokenFiles
from spacecompile.data.labels import LabelledFrame
from spacecompile.data.spark import image_size_px, read_parts_HW, tight_box
from spacecompile.errors import DataError, FrameError
from spacecompile.rle import rle_from_mask


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """Facts of one frame: size, and the masks as run lengths with their areas and boxes."""

    size_px: tuple[int, int]
    craft: dict[str, Any] | None
    parts: dict[str, dict[str, Any]]


def coco_document(
    frames: Sequence[LabelledFrame],
    *,
    classes: Sequence[str],
    root: Path,
    description: str,
    threads: int = 1,
    progress: Progress = no_progress,
) -> tuple[dict[str, Any], tuple[BrokenFile, ...]]:
    """Describe frames in COCO's words; masks are run lengths, boxes x, y, width, height.

    Args:
        frames: Frames with files on disk.
        classes: Category names, numbered from 1 in this order; the parts follow them.
        root: Folder that file names in the document are relative to.
        description: Description of the document.
        threads: Number of threads that read.
        progress: Callback for progress.

    Returns:
        The document, and the frames that were left out.

    Raises:
        DataError: If 1 % of the frames or more are broken.
    """
    categories = [
        {"id": number, "name": name, "supercategory": "part" if number > len(classes) else "spacecraft"}
        for number, name in enumerate((*classes, *PARTS), start=1)
    ]
    numbers = {str(category["name"]): category["id"] for category in categories}
    document: dict[str, Any] = {
        "info": {"description": description, "version": "1.0"},
        "licenses": [],
        "categories": categories,
        "images": [],
        "annotations": [],
    }
    tally = BrokenFiles(len(frames), name=f"the frames of {root}")
    with ThreadPoolExecutor(threads) as pool:
        for done, (frame, facts) in enumerate(zip(frames, pool.map(_facts_of, frames), strict=True), start=1):
            if isinstance(facts, BrokenFile):
                tally.add(facts)
            else:
                _add(document, frame, facts, numbers, root)
            progress("frames", done, len(frames))
    return document, tally.found


def _add(document: dict[str, Any], frame: LabelledFrame, facts: _Facts, numbers: dict[str, Any], root: Path) -> None:
    image_id = len(document["images"]) + 1
    document["images"].append(
        {
            "id": image_id,
            "file_name": frame.image_path.relative_to(root).as_posix(),
            "height": facts.size_px[0],
            "width": facts.size_px[1],
        }
    )
    x_min, y_min, x_max, y_max = frame.box_xyxy
    box_xywh = [x_min, y_min, x_max - x_min, y_max - y_min]
    craft = {"area": box_xywh[2] * box_xywh[3], "segmentation": []} | (facts.craft or {}) | {"bbox": box_xywh}
    for name, annotation in ((frame.class_name, craft), *facts.parts.items()):
        document["annotations"].append(
            {
                "id": len(document["annotations"]) + 1,
                "image_id": image_id,
                "category_id": numbers[name],
                "iscrowd": 0,
                **annotation,
            }
        )


def _facts_of(frame: LabelledFrame) -> _Facts | BrokenFile:
    try:
        size_px = image_size_px(frame.image_path)
        parts_HW = read_parts_HW(frame, size_px)
    except (FrameError, DataError) as error:
        return BrokenFile(path=frame.image_path, reason=str(error))
    if parts_HW is None:
        return _Facts(size_px=size_px, craft=None, parts={})
    masks = {part: (parts_HW & (1 << bit)) > 0 for bit, part in enumerate(PARTS)}
    return _Facts(
        size_px=size_px,
        craft=_annotation(parts_HW > 0),
        parts={part: entry for part, mask_HW in masks.items() if (entry := _annotation(mask_HW))},
    )


def _annotation(mask_HW: NDArray[np.bool_]) -> dict[str, Any] | None:
    """Run lengths, area and tight box of a mask; None for an empty one."""
    box_xyxy = tight_box(mask_HW)
    if box_xyxy is None:
        return None
    left, top, right, bottom = box_xyxy
    return {
        "segmentation": rle_from_mask(mask_HW),
        "area": int(np.count_nonzero(mask_HW)),
        "bbox": [left, top, right - left, bottom - top],
    }
