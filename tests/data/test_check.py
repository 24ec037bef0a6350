"""What `data check` finds, against frames whose every number is known."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spacecompile.data.check import check_split
from spacecompile.data.contact_sheet import LABEL_RGB, MASK_BOX_RGB, contact_sheet
from spacecompile.data.labels import BoxXYXY, LabelledFrame, Split, image_path, mask_path, scan_split
from spacecompile.data.spark import write_mask, write_split_csv
from spacecompile.errors import DataError

BOX: BoxXYXY = (10, 20, 50, 60)


def write_known(root: Path, *, frames: int, loose_px: int = 0) -> Split:
    """Square frames of 100 px whose left half is red 255 and right half 0, and whose mask fills the box."""
    made = []
    for index in range(frames):
        class_name = ("Soho", "Cheops")[index % 2]
        frame = LabelledFrame(
            image_path=image_path(root, class_name, "train", f"{index}_img.png"),
            mask_path=mask_path(root, class_name, "train", f"{index}_layer.jpg"),
            class_name=class_name,
            box_xyxy=(BOX[0] - loose_px, BOX[1], BOX[2] + 2 * loose_px, BOX[3]),
        )
        frame_HWC = np.zeros((100, 100, 3), np.uint8)
        frame_HWC[:, :50, 0] = 255
        frame.image_path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame_HWC).save(frame.image_path)
        parts_HW = np.zeros((100, 100), np.uint8)
        parts_HW[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 1
        write_mask(frame.required_mask_path, parts_HW)
        made.append(frame)
    write_split_csv(root, "train", made)
    return scan_split(root, "train")


def test_every_number_is_that_of_the_frames(tmp_path: Path) -> None:
    split = write_known(tmp_path, frames=3, loose_px=2)
    facts = check_split(split, frames=split.frames, threads=2)
    assert (facts.frames, facts.broken, facts.sizes) == (3, (), {"100x100": 3})
    assert {name: count for name, count in facts.classes.items() if count} == {"Soho": 2, "Cheops": 1}
    assert facts.mean == (0.5, 0.0, 0.0)
    assert facts.std == (0.5, 0.0, 0.0)
    assert facts.brightness.median == pytest.approx(255 / 6)
    assert facts.saturated_share.max == 0.5
    assert facts.craft_size.mean == pytest.approx((46 * 40) ** 0.5 / 100, abs=1e-6)
    assert {side: spread.median for side, spread in facts.margins_px.items()} == {
        "left": 2, "top": 0, "right": 4, "bottom": 0,
    }  # fmt: skip
    assert facts.box_iou is not None
    assert facts.box_iou.min == pytest.approx(40 / 46, abs=1e-6)
    assert facts.parts["body"].frames == 3
    assert facts.parts["body"].share is not None
    assert facts.parts["body"].share.max == pytest.approx(0.16)
    assert (facts.parts["panel"].frames, facts.parts["panel"].share) == (0, None)
    assert (facts.without_parts, facts.outside_box_share, facts.box_outside) == (0, 0, 0)


def test_boxes_that_cut_the_mask_or_leave_the_frame_are_counted(tmp_path: Path) -> None:
    split = write_known(tmp_path, frames=1)
    cutting = check_split(split, frames=[replace(split.frames[0], box_xyxy=(13, 20, 44, 60))])
    assert (cutting.outside_box_share, cutting.margins_px["left"].min, cutting.margins_px["right"].max) == (1, -3, -6)
    leaving = check_split(split, frames=[replace(split.frames[0], box_xyxy=(10, 20, 101, 60))])
    assert (leaving.outside_box_share, leaving.box_outside) == (0, 1)


def test_without_masks_nothing_is_said_about_parts(tmp_path: Path) -> None:
    split = write_known(tmp_path, frames=1)
    facts = check_split(split, frames=[replace(split.frames[0], mask_path=None)])
    assert (facts.parts, facts.margins_px, facts.box_iou, facts.without_parts) == ({}, {}, None, 0)


def test_every_broken_file_is_listed_however_many(tmp_path: Path) -> None:
    split = write_known(tmp_path, frames=6)
    split.frames[0].image_path.write_bytes(b"no image")
    Image.new("RGB", (50, 50)).save(split.frames[1].required_mask_path)
    split.frames[2].image_path.unlink()
    split = scan_split(tmp_path, "train")
    facts = check_split(split, frames=split.frames)
    assert facts.frames == 3
    expected = ("2_img.png does not exist", "0_img.png is not an image", "(50, 50)")
    for part, reason in zip(expected, facts.broken, strict=True):
        assert part in reason


def test_a_split_without_a_readable_frame_is_refused(tmp_path: Path) -> None:
    split = write_known(tmp_path, frames=1)
    split.frames[0].image_path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0_img\.png is not an image"):
        check_split(split, frames=split.frames)


def test_the_contact_sheet_has_a_row_per_class_and_shows_both_boxes(tmp_path: Path) -> None:
    split = write_known(tmp_path, frames=5, loose_px=6)
    sheets = {
        count: Image.open(io.BytesIO(contact_sheet(split.frames[:count], classes=split.format.classes, per_class=2)))
        for count in (1, 5)
    }
    one_row, two_rows = sheets[1], sheets[5]
    assert (one_row.format, one_row.width) == ("PNG", two_rows.width)
    assert two_rows.height > 1.8 * one_row.height
    pixels_HWC = np.asarray(two_rows.convert("RGB"))
    for color in (LABEL_RGB, MASK_BOX_RGB):
        rows, columns = np.nonzero((pixels_HWC[40:] == color).all(axis=2))
        assert len(rows) > 500
        assert columns.max() - columns.min() > 224  # in both columns of tiles


def test_a_broken_frame_leaves_its_place_on_the_sheet_empty(tmp_path: Path) -> None:
    split = write_known(tmp_path, frames=1)
    whole = contact_sheet(split.frames, classes=split.format.classes)
    split.frames[0].image_path.write_bytes(b"no image")
    empty = contact_sheet(split.frames, classes=split.format.classes)
    sizes = {Image.open(io.BytesIO(png)).size for png in (whole, empty)}
    assert len(sizes) == 1
    assert len(empty) < len(whole)
