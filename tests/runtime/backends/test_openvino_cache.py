"""Damage is found, other users are kept out, and what can't be kept is only a line in the log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spacecompile.runtime.backends.openvino_cache import BLOBS_MAX, BlobCache

# The root conftest keeps tests off the user's folder by replacing this function, so it is taken before that happens.
from spacecompile.runtime.backends.openvino_cache import user_cache_folder as real_user_cache_folder

BLOB = bytes(range(256)) * 8


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    opened = BlobCache.open(tmp_path / "spacecompile" / "openvino")
    assert opened is not None
    return opened


def the_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "spacecompile" / "openvino").iterdir()
    return path


def test_a_blob_comes_back_under_its_key_only(cache: BlobCache) -> None:
    cache.write("a", BLOB)
    assert cache.read("a") == BLOB
    assert cache.read("b") is None


@pytest.mark.skipif(sys.platform == "win32", reason="its access lists are not in the mode")
def test_the_folder_is_the_users_alone(cache: BlobCache, tmp_path: Path) -> None:
    assert (tmp_path / "spacecompile" / "openvino").stat().st_mode & 0o777 == 0o700


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.rename(path.with_name("b.blob")),
    ],
    ids=["one bit", "truncated", "empty", "the name of another key"],
)
def test_a_damaged_blob_is_not_handed_out(
    cache: BlobCache, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    cache.write("a", BLOB)
    damage(the_file(tmp_path))
    key = the_file(tmp_path).stem
    assert cache.read(key) is None
    assert "is damaged, compiling again" in caplog.text
    cache.write(key, BLOB)
    assert cache.read(key) == BLOB


def link(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


def shared(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


@pytest.mark.skipif(sys.platform == "win32", reason="folders there have access lists")
@pytest.mark.parametrize(
    ("obstacle", "problem"),
    [
        (shared, "can be written by others; run: chmod 700"),
        (link, "is no folder, or a link to one"),
        (lambda folder: folder.write_bytes(b""), "File exists"),
    ],
    ids=["shared", "a link", "a file"],
)
def test_a_folder_that_is_not_private_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, obstacle: Callable[[Path], None], problem: str
) -> None:
    obstacle(tmp_path / "cache")
    assert BlobCache.open(tmp_path / "cache") is None
    assert f"compiled models are not kept: {tmp_path / 'cache'} {problem}" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    os.chown(tmp_path / "cache", 12345, -1)
    assert BlobCache.open(tmp_path / "cache") is None
    assert "belongs to another user" in caplog.text


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o500)
    assert BlobCache.open(tmp_path / "cache" / "openvino") is None
    assert "compiled models are not kept" in caplog.text


def test_a_user_without_a_home_has_no_cache(caplog: pytest.LogCaptureFixture) -> None:
    assert BlobCache.open(Path("~/.cache/spacecompile/openvino")) is None
    assert "no home folder" in caplog.text


def test_a_blob_that_can_not_be_written_is_only_a_line_in_the_log(
    cache: BlobCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spacecompile" / "openvino" / "a.blob").mkdir()
    cache.write("a", BLOB)
    assert "the compiled model is not kept" in caplog.text
    assert cache.read("a") is None


def test_the_least_recently_used_blobs_go(cache: BlobCache, tmp_path: Path) -> None:
    keys = [f"{index:02}" for index in range(BLOBS_MAX)]
    for age_s, key in enumerate(reversed(keys), start=100):
        cache.write(key, BLOB)
        os.utime(tmp_path / "spacecompile" / "openvino" / f"{key}.blob", (1e9 - age_s, 1e9 - age_s))
    assert cache.read("00") == BLOB  # the oldest, used just now
    cache.write("new", BLOB)
    kept = {path.stem for path in (tmp_path / "spacecompile" / "openvino").iterdir()}
    assert kept == {*keys, "new"} - {"01"}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="these have places of their own")
@pytest.mark.parametrize(
    ("named", "expected"),
    [("/var/cache/me", "/var/cache/me"), ("relative", "/home/me/.cache"), (None, "/home/me/.cache")],
    ids=["named", "relative is ignored", "not named"],
)
def test_the_cache_lies_where_the_system_prescribes(
    monkeypatch: pytest.MonkeyPatch, named: str | None, expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    if named is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", named)
    assert real_user_cache_folder() == Path(expected) / "spacecompile" / "openvino"
