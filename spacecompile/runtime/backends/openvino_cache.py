"""Compiled models on the disk, so that the second load need not compile.

OpenVINO's own cache (`CACHE_DIR`) is not used: it runs a blob whose weights were overwritten without a word (tried
with 2026.4), which would be a way round the bundle's hashes. Here every blob is stored behind a SHA-256 of itself and
of what it was compiled from, checked before OpenVINO sees a byte: a damaged, truncated or renamed blob is compiled
again. That keeps out damage, not a forger, who could write the digest as well: so the folder is the user's alone, and
whoever can write there can change the program too. Where even that is too much trust, `cache=False` leaves it out.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from spacecompile.errors import OutputError
from spacecompile.files import write_file

BLOBS_MAX = 16
"""The least recently used beyond are deleted; one of the reference network has 14 MB."""

_DIGEST_BYTES = 32
_log = logging.getLogger(__name__)


def user_cache_folder() -> Path:
    """Where this user's compiled models lie: in the cache folder that the system prescribes."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  it stays "~" for a user without one; pathlib's raises
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        # A relative path is to be ignored (XDG Base Directory Specification).
        named = Path(os.environ.get("XDG_CACHE_HOME", ""))
        base = named if named.is_absolute() else home / ".cache"
    return base / "spacecompile" / "openvino"


class BlobCache:
    """A private folder of compiled models."""

    def __init__(self, folder: Path) -> None:
        """Take a folder that was found private; `open` makes and checks it."""
        self._folder = folder

    @classmethod
    def open(cls, folder: Path) -> BlobCache | None:
        """The cache in a folder, which is made if need be; None, with a line in the log, where it can't be used."""
        if not folder.is_absolute():
            _log.warning("compiled models are not kept: %s is no absolute path; this user has no home folder", folder)
            return None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            problem = _problem(folder)
        except OSError as error:
            problem = error.strerror or str(error)
        if problem:
            _log.warning("compiled models are not kept: %s %s", folder, problem)
            return None
        return cls(folder)

    def read(self, key: str) -> bytes | None:
        """The blob of a key, or None where there is no sound one."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s can't be read, compiling again: %s", path, error.strerror)
            return None
        digest, blob = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if digest != _digest(key, blob):
            _log.warning("%s is damaged, compiling again", path)
            return None
        with suppress(OSError):
            os.utime(path)
        return blob

    def write(self, key: str, blob: bytes) -> None:
        """Keep a blob, and delete the least recently used ones beyond `BLOBS_MAX`; a full disk is a line in the log."""
        try:
            write_file(self._path(key), _digest(key, blob) + blob)
        except OutputError as error:
            _log.warning("the compiled model is not kept: %s", error)
            return
        self._prune()

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.blob"

    def _prune(self) -> None:
        with suppress(OSError):  # another process prunes as well
            # Files of killed writers end in the same suffix, and grow old as well.
            for path in sorted(self._folder.glob("*.blob"), key=lambda path: path.stat().st_mtime_ns, reverse=True)[
                BLOBS_MAX:
            ]:
                path.unlink()


def _digest(key: str, blob: bytes) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(blob)
    return digest.digest()


def _problem(folder: Path) -> str | None:
    """Why a folder is not this user's alone, or None."""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode):
        return "is no folder, or a link to one"
    if sys.platform == "win32":  # its access lists are the profile's; the mode says nothing
        return None
    if facts.st_uid != os.geteuid():
        return "belongs to another user"
    if facts.st_mode & 0o022:
        return "can be written by others; run: chmod 700 on it"
    return None if os.access(folder, os.W_OK | os.X_OK) else "can't be written"
