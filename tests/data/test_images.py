from __future__ import annotations

import re
from pathlib import Path

import pytest

from spacecompile.data.images import NamedImage, find_images, overlay_names
from spacecompile.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = ("b.png", "a.JPG", "note.txt", "._a.jpg", ".hidden.png", "a_overlay.jpg", "deep/a.jpg", "deep/c.tiff")
    for name in names:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "set"


@pytest.mark.parametrize(
    ("arguments", "recursive", "names"),
    [
        (["set"], False, ["a.JPG", "b.png"]),
        (["set"], True, ["a.JPG", "b.png", "deep/a.jpg", "deep/c.tiff"]),
        (["set/*.png"], False, ["b.png"]),
        (["set/**/*.jpg"], False, ["a.jpg"]),
        (["set/b.png", "set/a.JPG", "set/../set/b.png"], False, ["a.JPG", "b.png"]),
        (["set/deep", "set/b.png"], False, ["b.png", "deep/a.jpg", "deep/c.tiff"]),
        (["set/note.txt"], False, ["note.txt"]),
    ],
    ids=[
        "folder",
        "folder with subfolders",
        "pattern",
        "deep pattern",
        "files, one twice",
        "folder and file",
        "any file that is named outright",
    ],
)
def test_arguments_stand_for(folder: Path, arguments: list[str], recursive: bool, names: list[str]) -> None:
    assert [image.name for image in find_images(arguments, recursive=recursive)] == names


def test_names_do_not_depend_on_how_the_folder_was_reached(folder: Path) -> None:
    names = [image.name for image in find_images([str(folder)], recursive=True)]
    assert names == [image.name for image in find_images(["./set/"], recursive=True)]


def test_the_root_of_a_data_set_stands_for_its_images(tmp_path: Path) -> None:
    for name in ("images/Soho/val/1_img.jpg", "images/Proba2/val/2_img.jpg", "mask/Soho/val/1_layer.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "val.csv").touch()
    assert [image.name for image in find_images([str(tmp_path)])] == ["Proba2/val/2_img.jpg", "Soho/val/1_img.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_found(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").touch()
    assert [image.name for image in find_images([str(tmp_path / "a[1].png")])] == ["a[1].png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png"], "path missing.png matches no image"),
        (["set/*.bmp"], "pattern set/*.bmp matches no image"),
        (["set/b.png", "set/*.bmp"], "pattern set/*.bmp"),
        (["empty"], "folder empty holds no image"),
        ([], "no image was named"),
    ],
    ids=["missing file", "pattern without a match", "one of two", "empty folder", "nothing"],
)
def test_an_argument_that_stands_for_nothing_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    (folder.parent / "empty").mkdir()
    with pytest.raises(UsageError, match=re.escape(message)):
        find_images(arguments)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "b.jpg"], ["a_overlay.jpg", "b_overlay.jpg"]),
        (["x/a.jpg", "y/a.jpg"], ["x__a_jpg_overlay.jpg", "y__a_jpg_overlay.jpg"]),
        (["a.jpg", "A.png"], ["a_jpg_overlay.jpg", "A_png_overlay.jpg"]),
        (
            ["x/a.jpg", "x__a_jpg.png", "y/a.jpg"],
            ["x__a_jpg_overlay.jpg", "x__a_jpg_2_overlay.jpg", "y__a_jpg_overlay.jpg"],
        ),
    ],
    ids=[
        "unique stems",
        "same name in two folders",
        "differing in case and suffix",
        "a name that looks like another's",
    ],
)
def test_overlay_names_never_collide(names: list[str], expected: list[str]) -> None:
    assert overlay_names(NamedImage(path=Path(name), name=name) for name in names) == expected


@pytest.mark.parametrize("table", ["val.csv", "labels/val.csv"])
def test_the_root_of_a_spark_2022_set_stands_for_its_labelled_splits(table: str, tmp_path: Path) -> None:
    for name in ("val/a.png", "val/._a.png", "notes/b.png", table):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [image.path for image in find_images([str(tmp_path)])] == [tmp_path / "val" / "a.png"]
