"""Files appear whole or not at all."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from spacecompile import files
from spacecompile.errors import OutputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    files.write_file(path, "größer")
    assert path.read_bytes() == "größer".encode()
    files.write_file(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("bug"), OSError(28, "No space left on device")])
def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, error: BaseException | type[BaseException]
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"earlier")
    expected = OutputError if isinstance(error, OSError) else type(error) if isinstance(error, Exception) else error
    with pytest.raises(expected), files.replacing(path) as partial_path:
        partial_path.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"earlier"
    assert names(tmp_path) == ["a.bin"]


def test_what_a_writer_raises_for_a_full_disk_is_an_output_error_too(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"can't write .*a\.pt: enforce fail. Check the folder and its free space"),
        files.replacing(tmp_path / "a.pt", errors=(RuntimeError,)),
    ):
        raise RuntimeError("enforce fail")


def test_a_disk_that_fills_up_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    # The limit on a file's size is what a full disk looks like to a process, and can be set for one process alone.
    code = (
        "import resource, signal, sys; from pathlib import Path; from spacecompile.files import write_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_file(Path(sys.argv[1]), bytes(100_000))\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 1000  # the limit is the child's alone
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.bin")], capture_output=True, text=True, check=False
    )
    assert "OutputError: can't write" in run.stderr
    assert "File too large" in run.stderr
    assert names(tmp_path) == []


def test_a_link_keeps_pointing_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("earlier")
    (tmp_path / "link.json").symlink_to("real.json")
    files.write_file(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"
    assert names(tmp_path) == ["link.json", "real.json"]


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    files.check_destination(pipe, flag="--json", force=False)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        files.write_file(pipe, "answer")
        assert os.read(reader, 100) == b"answer"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / f"{files.PARTIAL_PREFIX}1-last.pt").write_bytes(b"half")
    (tmp_path / "last.pt").write_bytes(b"whole")
    files.remove_partial_files(tmp_path)
    assert names(tmp_path) == ["last.pt"]


def test_a_destination_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str, *, force: bool = False) -> None:
        files.check_destination(tmp_path / name, flag="--json", force=force)

    (tmp_path / "there.json").write_text("mine")
    check("new.json")
    check("there.json", force=True)
    for name, said in {
        "": "it is a folder",
        "there.json": "exists.*--json, or add --force",
        "none/new.json": "its folder does not exist",
        "there.json/new.json": "its folder does not exist",
    }.items():
        with pytest.raises(OutputError, match=said):
            check(name)
    with pytest.raises(OutputError, match="it is a folder"):
        check("", force=True)
    with pytest.raises(OutputError, match="or remove it first"):
        files.check_destination(tmp_path / "there.json", flag="--json", force=False, remedy="remove it first")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "away").symlink_to(tmp_path / "none" / "new.json")
    with pytest.raises(OutputError, match="loop"):
        check("loop")
    with pytest.raises(OutputError, match="loop"):
        files.check_destination(tmp_path / "loop", flag="--json", force=True, bundle=tmp_path / "net.spacepkg")
    with pytest.raises(OutputError, match=r"--json .* lies in the bundle"):
        files.check_destination(tmp_path / "net" / "a.json", flag="--json", force=True, bundle=tmp_path / "net")
    with pytest.raises(OutputError, match="its folder does not exist"):
        check("away")
    # A superuser may write anywhere, so the mode of a folder proves nothing here.
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    with pytest.raises(OutputError, match="its folder is read-only"):
        check("new.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="a superuser may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError, match="its folder is read-only"):
        files.check_destination(tmp_path / "new.json", flag="--json", force=False)
    with pytest.raises(OutputError, match="can't write"):
        files.write_file(tmp_path / "new.json", "x")
    tmp_path.chmod(stat.S_IRWXU)


def test_two_names_are_exchanged_or_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = tmp_path / "größer", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    (one / "a").touch()
    is_done = files.exchange(one, other)
    assert (names(one), names(other)) == (([], ["a"]) if is_done else (["a"], []))
    assert not files.exchange(one, tmp_path / "missing")
    assert names(tmp_path) == sorted(["größer", "other"])
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not files.exchange(one, other)
