"""Fetching from the hub, with the hub's own client, against a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from spacecompile.cli.main import main
from spacecompile.data.hub import SPARK_2026, fetch
from spacecompile.data.labels import LabelledFrame, read_split
from spacecompile.data.spark import image_path, mask_path, write_image, write_mask, write_split_csv
from spacecompile.errors import DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Data sets by name, each a folder; `gated` ones answer 403 as the hub does."""

    datasets: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    endpoint: str = ""
    downloads: list[str] = field(default_factory=list)

    def answer(self, path: str, *, head: bool) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request."""
        words = unquote(urlsplit(path).path).strip("/").split("/")
        if words[:2] == ["api", "datasets"]:
            return self._facts("/".join(words[2:4]), words[4:])
        if words[:1] == ["datasets"] and words[3:4] == ["resolve"]:
            return self._file("/".join(words[1:3]), "/".join(words[5:]), head=head)
        return 404, {}, b""

    def _refusal(self, name: str) -> tuple[int, dict[str, str], bytes] | None:
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "accept the terms"}, b""
        return None if name in self.datasets else (401, {"X-Error-Code": "RepoNotFound"}, b"")

    def _facts(self, name: str, rest: list[str]) -> tuple[int, dict[str, str], bytes]:
        if refusal := self._refusal(name):
            return refusal
        root = self.datasets[name]
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        if rest[:1] == ["tree"]:
            content: Any = [self._entry(root, path) for path in paths]
        else:
            siblings = [{"rfilename": path.relative_to(root).as_posix()} for path in paths]
            content = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()

    def _entry(self, root: Path, path: Path) -> dict[str, Any]:
        name = path.relative_to(root).as_posix()
        return {"type": "file", "path": name, "oid": _etag(path), "size": path.stat().st_size}

    def _file(self, name: str, relative: str, *, head: bool) -> tuple[int, dict[str, str], bytes]:
        if refusal := self._refusal(name):
            return refusal
        path = self.datasets[name] / relative
        if not path.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        if not head:
            self.downloads.append(relative)
        return 200, {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT}, path.read_bytes()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(head=False)

        def do_HEAD(self) -> None:
            self._reply(head=True)

        def _reply(self, *, head: bool) -> None:
            status, headers, body = fake.answer(self.path, head=head)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not head:
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.endpoint = f"http://127.0.0.1:{server.server_port}"
    # Neither a login nor a cache of the machine that runs the tests.
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path_factory.mktemp("hf") / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


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
