"""The on-disk format: what is written is read back, and what is malformed is refused with its place."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spacecompile.contract import SPARK_CLASSES
from spacecompile.data import labels, spark
from spacecompile.errors import DataError, FrameError, OutputError

HEADER = "Image name,Mask name,Class,Bounding box"
GOOD_ROW = 'a_img.jpg,a_layer.jpg,Cheops,"(4, 2, 20, 30)"'


def random_parts_HW(seed: int, size_px: int = 96) -> np.ndarray:
    """Blocks, single-pixel lines and single pixels of both parts."""
    rng = np.random.default_rng(seed)
    parts_HW = np.zeros((size_px, size_px), np.uint8)
    for _ in range(8):
        row, column, height, width = rng.integers(1, size_px // 2, 4)
        parts_HW[row : row + height, column : column + width] = rng.choice([0, spark.BODY_BIT, spark.PANEL_BIT])
    parts_HW[rng.integers(size_px)] = spark.BODY_BIT
    parts_HW[:, rng.integers(size_px)] = spark.PANEL_BIT
    row, column = rng.integers(0, size_px, (2, 30))
    parts_HW[row, column] = rng.choice([spark.BODY_BIT, spark.PANEL_BIT], 30)
    return parts_HW


def write_frame(root: Path, *, class_name: str = "Cheops", name: str = "a") -> labels.LabelledFrame:
    """One small frame with its mask under `root`."""
    frame = labels.LabelledFrame(
        image_path=labels.image_path(root, class_name, "train", f"{name}_img.jpg"),
        mask_path=labels.mask_path(root, class_name, "train", f"{name}_layer.jpg"),
        class_name=class_name,
        box_xyxy=(4, 2, 20, 30),
    )
    spark.write_image(frame.image_path, np.full((32, 32, 3), 90, np.uint8), jpeg_quality=90)
    spark.write_mask(frame.mask_path, random_parts_HW(0, 32))
    return frame


def write_csv(root: Path, text: str) -> None:
    (root / "train.csv").write_text(text, encoding="utf-8")


def test_the_ten_classes_are_in_the_published_order_and_spelling() -> None:
    assert SPARK_CLASSES == (
        "VenusExpress", "Cheops", "LisaPathfinder", "ObservationSat1", "Proba2",
        "Proba3", "Proba3ocs", "Smart1", "Soho", "XMM Newton",
    )  # fmt: skip


def test_a_split_that_was_written_is_read_back_in_order(tmp_path: Path) -> None:
    frames = [write_frame(tmp_path, name="b", class_name="XMM Newton"), write_frame(tmp_path)]
    csv_path = spark.write_split_csv(tmp_path, "train", frames)
    assert labels.read_split(tmp_path, "train") == frames
    with csv_path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == HEADER.split(",")
    assert rows[1] == ["b_img.jpg", "b_layer.jpg", "XMM Newton", "(4, 2, 20, 30)"]
    assert frames[0].image_path == tmp_path / "images" / "XMM Newton" / "train" / "b_img.jpg"


@pytest.mark.parametrize("seed", range(6))
def test_parts_survive_the_jpeg_mask_exactly(tmp_path: Path, seed: int) -> None:
    parts_HW = random_parts_HW(seed)
    spark.write_mask(tmp_path / "mask.jpg", parts_HW)
    np.testing.assert_array_equal(spark.parts_HW_from_mask(tmp_path / "mask.jpg"), parts_HW)


def test_mask_colours_and_part_bits_are_inverses() -> None:
    parts_HW = np.array([[0, spark.BODY_BIT], [spark.PANEL_BIT, spark.BODY_BIT | spark.PANEL_BIT]], np.uint8)
    np.testing.assert_array_equal(spark.parts_HW_from_mask(spark.mask_HWC_from_parts(parts_HW)), parts_HW)


@pytest.mark.parametrize(
    ("rgb", "bits"),
    [
        pytest.param((254, 0, 2), spark.BODY_BIT, id="reddish is body"),
        pytest.param((1, 3, 250), spark.PANEL_BIT, id="bluish is panel"),
        pytest.param((127, 255, 127), 0, id="at the threshold is neither"),
        pytest.param((128, 0, 0), spark.BODY_BIT, id="just above the threshold"),
        pytest.param((20, 20, 20), 0, id="dark is background"),
    ],
)
def test_masks_are_decoded_by_dominance_not_equality(rgb: tuple[int, int, int], bits: int) -> None:
    assert spark.parts_HW_from_mask(np.full((1, 1, 3), rgb, np.uint8))[0, 0] == bits


@pytest.mark.parametrize(
    "mask", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)],
    ids=["grey", "alpha", "float"],
)  # fmt: skip
def test_a_mask_of_another_layout_is_refused(mask: np.ndarray) -> None:
    with pytest.raises(FrameError, match="expected uint8"):
        spark.parts_HW_from_mask(mask)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_any_pillow_mode_is_read_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("frame.tif" if mode == "CMYK" else "frame.png")
    Image.new(mode, (5, 3)).save(path)
    frame_HWC = spark.read_frame_HWC(path)
    assert (frame_HWC.shape, frame_HWC.dtype) == ((3, 5, 3), np.uint8)


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "truncated"])
def test_a_broken_frame_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "frame.jpg"
    if content is None:
        spark.write_image(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), jpeg_quality=95)
        content = path.read_bytes()[:600]
    path.write_bytes(content)
    with pytest.raises(FrameError, match=r"frame\.jpg"):
        spark.read_frame_HWC(path)


def test_a_missing_frame_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        spark.read_frame_HWC(tmp_path / "nowhere.jpg")


def test_a_missing_csv_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="spacecompile render -o"):
        labels.read_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "line 1: the header", id="empty file"),
        pytest.param("Image name,Class\nx,y\n", r"lacks \['Mask name', 'Bounding box'\]", id="missing columns"),
        pytest.param(HEADER + "\n", "holds no frame", id="no rows"),
        pytest.param(f"{HEADER}\n{GOOD_ROW}\na_img.jpg,a_layer.jpg\n", "line 3: a field is empty", id="short row"),
        pytest.param(f'{HEADER}\na_img.jpg,a_layer.jpg,cheops,"(1, 2, 3, 4)"\n', "line 2: class 'cheops'", id="class"),
        pytest.param(f'{HEADER}\nb_img.jpg,a_layer.jpg,Cheops,"(1, 2, 3, 4)"\n', "does not exist", id="no image"),
        pytest.param(f'{HEADER}\na_img.jpg,b_layer.jpg,Cheops,"(1, 2, 3, 4)"\n', "does not exist", id="no mask"),
        pytest.param(f'{HEADER}\n../a.jpg,a_layer.jpg,Cheops,"(1, 2, 3, 4)"\n', "plain file name", id="path as name"),
        pytest.param(f"{HEADER}\na_img.jpg,a_layer.jpg,Cheops,(1, 2, 3, 4)\n", "quotes included", id="unquoted box"),
        pytest.param(f'{HEADER}\na_img.jpg,a_layer.jpg,Cheops,"(1, 2, 3)"\n', "line 2: the box", id="three numbers"),
        pytest.param(f'{HEADER}\na_img.jpg,a_layer.jpg,Cheops,"(1.5, 2, 3, 4)"\n', "whole frame pixels", id="fraction"),
        pytest.param(f'{HEADER}\na_img.jpg,a_layer.jpg,Cheops,"exit()"\n', "line 2: the box", id="code as box"),
        pytest.param(f'{HEADER}\na_img.jpg,a_layer.jpg,Cheops,"(9, 2, 3, 4)"\n', "corners swapped", id="swapped"),
        pytest.param(f'{HEADER}\na_img.jpg,a_layer.jpg,Cheops,"(3, 2, 3, 4)"\n', "is empty", id="empty box"),
        pytest.param(f'{HEADER}\na_img.jpg,a_layer.jpg,Cheops,"(-1, 2, 3, 4)"\n', "negative", id="negative"),
    ],
)
def test_a_malformed_csv_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    write_frame(tmp_path)
    write_csv(tmp_path, text)
    with pytest.raises(DataError, match=message):
        labels.read_split(tmp_path, "train")


def test_a_csv_of_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(HEADER.encode("utf-16"))
    with pytest.raises(DataError, match="UTF-8"):
        labels.read_split(tmp_path, "train")


def test_apple_double_rows_byte_order_marks_and_blank_lines_are_tolerated(tmp_path: Path) -> None:
    write_frame(tmp_path)
    write_csv(tmp_path, f'\ufeff{HEADER}\n._a_img.jpg,._a_layer.jpg,Cheops,"(0, 0, 1, 1)"\n\n{GOOD_ROW}\n')
    assert [frame.box_xyxy for frame in labels.read_split(tmp_path, "train")] == [(4, 2, 20, 30)]


def test_an_unwritable_place_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="can't write"):
        spark.write_image(tmp_path / "file" / "frame.jpg", np.zeros((8, 8, 3), np.uint8), jpeg_quality=90)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("length", "limit", "expected"),
    [(5, 9, [0, 1, 2, 3, 4]), (10, 3, [0, 3, 6]), (4, 0, []), (0, 3, []), (7, 7, list(range(7))), (2, None, [0, 1])],
)
def test_spread_takes_at_most_limit_items_evenly(length: int, limit: int | None, expected: list[int]) -> None:
    assert labels.spread(range(length), limit) == expected


def test_a_size_is_read_from_the_header_alone(tmp_path: Path) -> None:
    noise_HWC = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    spark.write_image(tmp_path / "a.jpg", noise_HWC, jpeg_quality=90)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    assert spark.image_size_px(tmp_path / "a.jpg") == spark.image_size_px(tmp_path / "cut.jpg") == (64, 96)
    (tmp_path / "text.jpg").write_bytes(b"no image")
    with pytest.raises(FrameError, match=r"text\.jpg is not an image"):
        spark.image_size_px(tmp_path / "text.jpg")
    with pytest.raises(DataError, match=r"none\.jpg can't be read"):
        spark.image_size_px(tmp_path / "none.jpg")


def test_a_note_is_read_only_from_a_whole_jpeg_of_the_right_size(tmp_path: Path) -> None:
    path = tmp_path / "mask.jpg"
    spark.write_mask(path, random_parts_HW(0), note="seen")
    assert spark.read_jpeg_note(path, (96, 96)) == "seen"
    assert spark.read_jpeg_note(path, (96, 95)) is None
    path.write_bytes(path.read_bytes()[:-2])
    assert spark.read_jpeg_note(path, (96, 96)) is None
    assert spark.read_jpeg_note(tmp_path / "nowhere.jpg", (96, 96)) is None
