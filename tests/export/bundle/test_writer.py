from __future__ import annotations

import errno
import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spacecompile.contract import FileFact
from spacecompile.errors import OutputError
from spacecompile.export.bundle import writer as bundle_writer_module
from spacecompile.export.bundle.writer import bundle_writer, check_output
from spacecompile.files import exchange


def write_bundle(output: Path, content: bytes = b"new") -> None:
    with bundle_writer(output) as writer:
        writer.write("variants/fp32/model.onnx", content)
        writer.write_manifest(b"{}")


def read_bundle(output: Path) -> bytes:
    return (output / "variants" / "fp32" / "model.onnx").read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def can_exchange(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("exchange")
    for name in ("one", "other"):
        (folder / name).mkdir()
    if not exchange(folder / "one", folder / "other"):
        pytest.skip("this platform or file system can't exchange two names")


def test_a_bundle_is_written_with_the_facts_of_its_files(tmp_path: Path) -> None:
    output = tmp_path / "made" / "on the way" / "net.spacepkg"
    with bundle_writer(output) as writer:
        path = writer.write("a/b.bin", b"content")
        assert path.read_bytes() == b"content"
        assert not output.exists()
        writer.write_manifest(b"{}")
    assert writer.facts == {"a/b.bin": FileFact(sha256=hashlib.sha256(b"content").hexdigest(), bytes=7)}
    assert (output / "a" / "b.bin").read_bytes() == b"content"
    assert (output / "manifest.json").read_bytes() == b"{}"
    assert names(output.parent) == ["net.spacepkg"]


def test_a_bundle_replaces_an_earlier_one_whole(tmp_path: Path) -> None:
    output = tmp_path / "net.spacepkg"
    with bundle_writer(output) as writer:
        writer.write("only/in/the/old.bin", b"old")
        writer.write_manifest(b"{}")
    write_bundle(output)
    assert names(output) == ["manifest.json", "variants"]
    assert names(tmp_path) == ["net.spacepkg"]


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_an_interrupted_build_leaves_the_earlier_bundle_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    output = tmp_path / "net.spacepkg"
    write_bundle(output, b"old")

    def interrupted() -> None:
        with bundle_writer(output) as writer:
            writer.write("variants/fp32/model.onnx", b"new")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert read_bundle(output) == b"old"
    assert names(tmp_path) == ["net.spacepkg"]


def failing(call: Callable[..., Any], when: Callable[[Path], bool], number: int) -> Callable[..., Any]:
    """A stand-in for a method of Path that fails as a full or read-only disk does."""

    def method(self: Path, *arguments: Any, **options: Any) -> Any:
        if when(self):
            raise OSError(number, errno.errorcode[number])
        return call(self, *arguments, **options)

    return method


@pytest.mark.parametrize(
    ("method", "when"),
    [
        pytest.param("mkdir", lambda path: ".unfinished-" in path.name, id="no folder can be made"),
        pytest.param("write_bytes", lambda path: path.name == "model.onnx", id="full while writing"),
        pytest.param("rename", lambda path: ".unfinished-" in path.name, id="the last rename fails"),
    ],
)
def test_a_full_disk_leaves_the_earlier_bundle_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, when: Callable[[Path], bool]
) -> None:
    output = tmp_path / "net.spacepkg"
    write_bundle(output, b"old")
    monkeypatch.setattr(bundle_writer_module, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, method, failing(getattr(Path, method), when, errno.ENOSPC))
    with pytest.raises(OutputError, match=r"can't write .*net\.spacepkg: ENOSPC\. Free some space"):
        write_bundle(output)
    monkeypatch.undo()
    assert read_bundle(output) == b"old"
    assert names(tmp_path) == ["net.spacepkg"]


KILLED = """
import os, signal, sys
from pathlib import Path
from spacecompile.export.bundle import writer as module
from spacecompile.export.bundle.writer import bundle_writer
moment, output = sys.argv[1], Path(sys.argv[2])
if moment == "between the renames":
    def killed(self, target, rename=Path.rename):
        if ".unfinished-" in self.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    Path.rename = killed
    module.exchange = lambda *_: False
if moment == "after the exchange":
    def killed(one, other, exchange=module.exchange):
        if not exchange(one, other):
            sys.exit("not supported")
        os.kill(os.getpid(), signal.SIGKILL)
    module.exchange = killed
with bundle_writer(output) as writer:
    writer.write("variants/fp32/model.onnx", b"new")
    if moment == "while writing":
        os.kill(os.getpid(), signal.SIGKILL)
    writer.write_manifest(b"{}")
"""


@pytest.mark.parametrize("moment", ["while writing", "between the renames"])
def test_the_next_build_clears_up_after_a_killed_one(tmp_path: Path, moment: str) -> None:
    output = tmp_path / "net.spacepkg"
    write_bundle(output, b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED, moment, str(output)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2
    seen: list[bytes] = []
    with bundle_writer(output) as writer:
        seen.append(read_bundle(output))
        writer.write("variants/fp32/model.onnx", b"newer")
        writer.write_manifest(b"{}")
    assert seen == [b"old"]
    assert read_bundle(output) == b"newer"
    assert names(tmp_path) == ["net.spacepkg"]


def test_a_killed_exchange_leaves_the_new_bundle_and_the_next_build_removes_the_old_one(
    tmp_path: Path, can_exchange: None
) -> None:
    output = tmp_path / "net.spacepkg"
    write_bundle(output, b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED, "after the exchange", str(output)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert read_bundle(output) == b"new"
    assert len(names(tmp_path)) == 2
    write_bundle(output, b"newer")
    assert read_bundle(output) == b"newer"
    assert names(tmp_path) == ["net.spacepkg"]


@pytest.mark.parametrize("is_one_step", [True, False], ids=["in one step", "by two renames"])
def test_a_bundle_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: None, is_one_step: bool
) -> None:
    output = tmp_path / "net.spacepkg"
    write_bundle(output, b"old")
    seen: list[bool] = []
    rename = Path.rename

    def watched(self: Path, target: Path) -> Path:
        renamed = rename(self, target)
        seen.append(output.exists())
        return renamed

    monkeypatch.setattr(Path, "rename", watched)
    if not is_one_step:
        monkeypatch.setattr(bundle_writer_module, "exchange", lambda *_: False)
    write_bundle(output)
    assert seen == ([] if is_one_step else [False, True])
    assert read_bundle(output) == b"new"
    assert names(tmp_path) == ["net.spacepkg"]


def test_who_can_not_choose_another_output_is_not_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", failing(Path.write_bytes, lambda _: True, errno.ENOSPC))
    with (
        pytest.raises(OutputError, match=r"net\.spacepkg: ENOSPC\. Free the disk\.$"),
        bundle_writer(tmp_path / "net.spacepkg", remedy="Free the disk.") as writer,
    ):
        writer.write("a.bin", b"")


def test_a_build_that_runs_beside_this_one_is_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "net.spacepkg"
    with bundle_writer(output) as slow:
        slow.write("variants/fp32/model.onnx", b"slow")
        write_bundle(output, b"quick")
        assert (slow.folder / "variants" / "fp32" / "model.onnx").read_bytes() == b"slow"
        slow.write_manifest(b"{}")
    assert read_bundle(output) == b"slow"


def make_bundle(path: Path) -> None:
    write_bundle(path, b"old")


@pytest.mark.parametrize(
    ("make", "force", "message"),
    [
        pytest.param(make_bundle, False, "exists. Choose another --output, or add --force", id="bundle without force"),
        pytest.param(Path.touch, True, "exists and is not a folder", id="a file"),
        pytest.param(
            lambda path: (path / "photos").mkdir(parents=True), True, "is no bundle", id="a folder of something else"
        ),
        pytest.param(lambda path: path.symlink_to(path.parent), True, "exists and is not a folder", id="a link"),
        pytest.param(lambda path: path.parent.rmdir() or path.parent.touch(), False, "is not a folder", id="no folder"),
    ],
)
def test_what_is_in_the_way_is_refused_and_stays(
    tmp_path: Path, make: Callable[[Path], Any], force: bool, message: str
) -> None:
    output = tmp_path / "place" / "net.spacepkg"
    output.parent.mkdir()
    make(output)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=message):
        check_output(output, force=force, needed_bytes=0)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("make", "force"),
    [
        pytest.param(make_bundle, True, id="bundle with force"),
        pytest.param(Path.mkdir, True, id="empty folder with force"),
        pytest.param(lambda _: None, False, id="nothing"),
    ],
)
def test_a_free_place_is_accepted_and_not_touched(tmp_path: Path, make: Callable[[Path], Any], force: bool) -> None:
    output = tmp_path / "net.spacepkg"
    make(output)
    before = sorted(tmp_path.rglob("*"))
    check_output(output, force=force, needed_bytes=0)
    check_output(tmp_path / "not" / "there" / "yet.spacepkg", force=False, needed_bytes=0)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_is_too_full_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"MB free; the bundle needs about 1000000000000 MB"):
        check_output(tmp_path / "net.spacepkg", force=False, needed_bytes=10**18)
