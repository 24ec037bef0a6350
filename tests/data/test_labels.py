"""Label tables: the format follows from the header, and missing files are counted before they are fatal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spacecompile.contract import SPARK_CLASSES
from spacecompile.data.labels import SPARK_2022, SPARK_2022_CLASSES, LabelledFrame, classes_of, read_split, scan_split
from spacecompile.data.spark import write_image, write_split_csv
from spacecompile.errors import DataError

HEADER_2022 = "filename,class,bbox"


def write_2022(root: Path, rows: str, *names: str, csv_name: str = "train.csv") -> Path:
    """A SPARK 2022 split with the named frames."""
    for name in names:
        write_image(root / "train" / name, np.zeros((40, 60, 3), np.uint8), jpeg_quality=90)
    (root / csv_name).parent.mkdir(parents=True, exist_ok=True)
    (root / csv_name).write_text(f"{HEADER_2022}\n{rows}\n", encoding="utf-8")
    return root


@pytest.mark.parametrize("csv_name", ["train.csv", "labels/train.csv"])
def test_spark_2022_is_known_by_its_header_and_its_boxes_name_rows_first(tmp_path: Path, csv_name: str) -> None:
    write_2022(tmp_path, 'img000001.jpg,proba_3_csc,"[3, 7, 30, 50]"', "img000001.jpg", csv_name=csv_name)
    split = scan_split(tmp_path, "train")
    assert split.format is SPARK_2022
    assert split.frames == (
        LabelledFrame(
            image_path=tmp_path / "train" / "img000001.jpg",
            mask_path=None,
            class_name="proba_3_csc",
            box_xyxy=(7, 3, 50, 30),
        ),
    )
    assert not split.frames[0].has_parts


def test_spark_2022_frames_that_were_saved_as_jpeg_are_found_under_their_png_name(tmp_path: Path) -> None:
    write_2022(tmp_path, 'img000001.png,debris,"[3, 7, 30, 50]"', "img000001.jpg")
    assert read_split(tmp_path, "train")[0].image_path.name == "img000001.jpg"


def test_spark_2022_has_eleven_classes() -> None:
    assert len(set(SPARK_2022_CLASSES)) == 11
    assert "debris" in SPARK_2022_CLASSES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(f"{HEADER_2022}\n", "holds no frame", id="empty split"),
        pytest.param("filename,class\na,b\n", r"lacks \['bbox'\].*SPARK 2022", id="missing column"),
        pytest.param(f'{HEADER_2022}\na.jpg,Cheops,"[1, 2, 3, 4]"\n', "class 'Cheops' is unknown", id="other class"),
        pytest.param(f'{HEADER_2022}\na.jpg,soho,"[9, 2, 3, 4]"\n', "r_min, c_min", id="swapped rows"),
        pytest.param(f'{HEADER_2022}\n../a.jpg,soho,"[1, 2, 3, 4]"\n', "plain file name", id="path as name"),
    ],
)
def test_a_malformed_2022_csv_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_split(tmp_path, "train")


def test_columns_of_other_names_and_orders_are_ignored_where_the_needed_ones_are_there(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write_image(tmp_path / "train" / "a.jpg", np.zeros((40, 60, 3), np.uint8), jpeg_quality=90)
    (tmp_path / "train.csv").write_text('range_m,bbox,filename,class\n3.5,"[1, 2, 3, 4]",a.jpg,soho\n')
    assert read_split(tmp_path, "train")[0].box_xyxy == (2, 1, 4, 3)


@pytest.mark.parametrize(
    ("rows", "is_same"),
    [
        pytest.param("{a}\n{b}", True, id="same"),
        pytest.param("{b}\n{a}", False, id="another order"),
        pytest.param("{a}", False, id="a row less"),
        pytest.param('img000001.png,soho,"[3, 7, 30, 50]"\n{b}', False, id="another class"),
        pytest.param('img000001.png,debris,"[3, 7, 30, 51]"\n{b}', False, id="another box"),
        pytest.param('img000003.png,debris,"[3, 7, 30, 50]"\n{b}', False, id="another name"),
        pytest.param('img000001.png,debris,"[3,7,30,50]"\n{b}', True, id="box written otherwise"),
    ],
)
def test_labels_are_told_apart_by_what_they_say(tmp_path: Path, rows: str, is_same: bool) -> None:
    a, b = 'img000001.png,debris,"[3, 7, 30, 50]"', 'img000002.png,soho,"[1, 2, 30, 40]"'
    first = scan_split(write_2022(tmp_path / "first", f"{a}\n{b}", "img000001.jpg", "img000002.jpg"), "train")
    # Another folder, in which no frame is there.
    second = scan_split(write_2022(tmp_path / "second", rows.format(a=a, b=b)), "train")
    assert (len(first.frames), len(second.frames)) == (2, 0)
    assert (first.rows_sha256 == second.rows_sha256) is is_same


@pytest.mark.parametrize(("there", "is_fatal"), [(100, False), (99, True)])
def test_missing_files_are_counted_and_fatal_from_one_in_a_hundred(
    tmp_path: Path, there: int, is_fatal: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "\n".join(f'img{index:06d}.jpg,soho,"[1, 2, 30, 40]"' for index in range(there + 1))
    write_2022(tmp_path, rows, *(f"img{index:06d}.jpg" for index in range(1, there + 1)))
    assert [entry.path.name for entry in scan_split(tmp_path, "train").broken] == ["img000000.jpg"]
    if is_fatal:
        with pytest.raises(DataError, match=r"1 of 100 frames .* line 2: .*img000000\.jpg does not exist"):
            read_split(tmp_path, "train")
    else:
        assert len(read_split(tmp_path, "train")) == there
        assert "img000000.jpg does not exist" in caplog.text


def labelled(class_name: str) -> LabelledFrame:
    return LabelledFrame(image_path=Path("a"), mask_path=None, class_name=class_name, box_xyxy=(0, 0, 1, 1))


def test_the_class_order_is_that_of_the_format() -> None:
    assert classes_of([labelled("Soho"), labelled("Cheops")]) == SPARK_CLASSES
    assert classes_of([labelled("soho")]) == SPARK_2022_CLASSES
    with pytest.raises(DataError, match="--classes"):
        classes_of([labelled("soho"), labelled("Soho")])


def test_a_frame_without_a_mask_is_not_written_as_one_that_has_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no parts mask"):
        write_split_csv(tmp_path, "train", [labelled("Soho")])
    assert list(tmp_path.iterdir()) == []


def test_a_lost_file_changes_no_other_choice(tmp_path: Path) -> None:
    names = [f"img{index:06}.jpg" for index in range(40)]
    write_2022(tmp_path, "\n".join(f'{name},soho,"[3, 7, 30, 50]"' for name in names), *names)
    before = scan_split(tmp_path, "train").spread(8)
    before[0].image_path.unlink()
    (tmp_path / "train" / names[-1]).unlink()  # was not taken
    split = scan_split(tmp_path, "train")
    assert (len(split.rows), len(split.frames)) == (40, 38)
    assert split.spread(8) == [split.rows[1], *before[1:]], "the next row stands in"
    assert split.spread(0) == list(split.frames)
    assert split.spread(38) == split.spread(39) == list(split.frames)
    assert len(set(split.spread(37))) == 37


def test_a_lost_last_row_is_replaced_by_the_first_that_is_free(tmp_path: Path) -> None:
    names = [f"img{index:06}.jpg" for index in range(6)]
    write_2022(tmp_path, "\n".join(f'{name},soho,"[3, 7, 30, 50]"' for name in names), *names)
    for index in (3, 4, 5):
        (tmp_path / "train" / names[index]).unlink()
    split = scan_split(tmp_path, "train")
    assert split.spread(2) == [split.rows[0], split.rows[1]], "row 3 was chosen; behind it nothing is left"
