"""Fetching from the hub, with the hub's own client, against a hub on this machine."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_hub import COMMIT, FakeHub, serving

from spacecompile.cli.main import main
from spacecompile.data.hub import fetch
from spacecompile.data.labels import LabelledFrame, image_path, mask_path, read_split
from spacecompile.data.spark import write_image, write_mask, write_split_csv
from spacecompile.errors import DataError

SPARK_2026 = "CVI2-UniLU/SPARK-2026"


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    # Neither a login nor a cache of the machine that runs the tests.
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path_factory.mktemp("hf") / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    with serving(FakeHub()) as fake:
        yield fake


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits of two frames each, as they lie on disk."""
    root = tmp_path_factory.mktemp("tree")
    for split in ("train", "val"):
        frames = []
        for name in ("Soho", "Cheops"):
            frame = LabelledFrame(
                image_path=image_path(root, name, split, f"{split}_img.jpg"),
                mask_path=mask_path(root, name, split, f"{split}_layer.jpg"),
                class_name=name,
                box_xyxy=(1, 2, 30, 20),
            )
            write_image(frame.image_path, np.full((32, 32, 3), 50, np.uint8), jpeg_quality=90)
            write_mask(frame.required_mask_path, np.ones((32, 32), np.uint8))
            frames.append(frame)
        write_split_csv(root, split, frames)
    return root


def published(tree: Path, root: Path, layout: str) -> Path:
    """The tree as a data set may be published: loose files, zip archives per folder, or one tar archive."""
    if layout == "loose":
        return Path(shutil.copytree(tree, root))
    root.mkdir()
    if layout == "zips":
        for table in tree.glob("*.csv"):
            shutil.copy(table, root)
        for folder in ("images", "mask"):
            with zipfile.ZipFile(root / f"{folder}.zip", "w") as archive:
                archive.writestr(f"__MACOSX/{folder}/._x_img.jpg", b"leftover")
                for path in sorted((tree / folder).rglob("*.jpg")):
                    archive.write(path, path.relative_to(tree))
    else:
        with tarfile.open(root / "spark.tar.gz", "w:gz") as stream:
            stream.add(tree, "spark")
    (root / "README.md").write_text("# SPARK\n")
    return root


@pytest.mark.parametrize("layout", ["loose", "zips", "tar"])
def test_a_data_set_is_fetched_by_its_name_and_can_be_read(
    hub: FakeHub, tree: Path, tmp_path: Path, layout: str
) -> None:
    hub.datasets[SPARK_2026] = published(tree, tmp_path / "hub", layout)
    fetched = fetch(SPARK_2026, tmp_path / "data", endpoint=hub.endpoint)
    assert (fetched.repo, fetched.revision) == (SPARK_2026, COMMIT)
    assert [(split.split, split.frames, split.missing, split.format) for split in fetched.splits] == [
        ("train", 2, 0, "SPARK 2024/2026"),
        ("val", 2, 0, "SPARK 2024/2026"),
    ]
    root = fetched.splits[0].root
    assert [frame.class_name for frame in read_split(root, "val")] == ["Soho", "Cheops"]
    assert json.loads((tmp_path / "data" / "hub.json").read_text()) == {"repo": SPARK_2026, "revision": COMMIT}


def test_what_was_fetched_is_not_fetched_again(hub: FakeHub, tree: Path, tmp_path: Path) -> None:
    hub.datasets[SPARK_2026] = published(tree, tmp_path / "hub", "zips")
    fetch(SPARK_2026, tmp_path / "data", endpoint=hub.endpoint)
    first = len(hub.downloads)
    (tmp_path / "data" / "val.csv").unlink()
    fetched = fetch(SPARK_2026, tmp_path / "data", endpoint=hub.endpoint)
    assert hub.downloads[first:] == ["val.csv"]
    assert len(fetched.splits) == 2


def test_the_command_says_where_the_data_is(
    hub: FakeHub, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.datasets["someone/frames"] = published(tree, tmp_path / "hub", "loose")
    arguments = ["someone/frames", "-o", str(tmp_path / "data"), "--endpoint", hub.endpoint, "--json", "-"]
    assert main(["data", "fetch", *arguments]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert [split["root"] for split in document["splits"]] == [str(tmp_path / "data")] * 2
    assert "spacecompile data check" in captured.err


@pytest.mark.parametrize(
    ("state", "message"),
    [("unknown", "no data set"), ("gated", "accept its terms"), ("unreachable", "can't be fetched")],
)
def test_what_the_hub_refuses_is_said_in_a_sentence(hub: FakeHub, tmp_path: Path, state: str, message: str) -> None:
    if state == "gated":
        hub.gated.add(SPARK_2026)
    endpoint = "http://127.0.0.1:9" if state == "unreachable" else hub.endpoint
    with pytest.raises(DataError, match=message):
        fetch(SPARK_2026, tmp_path / "data", endpoint=endpoint)


def test_a_data_set_of_another_kind_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "labels.csv").write_text("a,b\n")
    hub.datasets["someone/other"] = tmp_path / "hub"
    with pytest.raises(DataError, match=r"its tables are \['labels\.csv'\]"):
        fetch("someone/other", tmp_path / "data", endpoint=hub.endpoint)


def test_a_damaged_archive_is_refused_by_name(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "images.zip").write_bytes(b"not a zip")
    hub.datasets["someone/broken"] = tmp_path / "hub"
    with pytest.raises(DataError, match=r"images\.zip can't be unpacked"):
        fetch("someone/broken", tmp_path / "data", endpoint=hub.endpoint)
