"""Writing files so that whoever looks sees the earlier file or the whole new one, never a half."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from spacecompile.errors import OutputError

PARTIAL_PREFIX: Final = ".partial-"
"""Begins the name of every file that is still being written; such a file can be removed once its writer is gone."""

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
"""Of linux/fcntl.h and linux/fs.h; see renameat2(2)."""

FULL_DISK_REMEDY: Final = "Check the folder and its free space."


@contextmanager
def replacing(
    path: Path, *, remedy: str = FULL_DISK_REMEDY, errors: tuple[type[Exception], ...] = ()
) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends without an error and vanishes otherwise.

    Args:
        path: File to make or replace; its folder is made if need be. A link keeps pointing where it points. What is no
            file, such as a pipe or a device, can't be replaced and is written to directly.
        remedy: Sentence that ends the error message.
        errors: What else the writer raises when it can't write, beside OSError.

    Raises:
        OutputError: If it can't be written.
    """
    is_special, target = _target_of(path)
    partial_path = path if is_special else target.with_name(f"{PARTIAL_PREFIX}{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial_path
        if not is_special:
            partial_path.replace(target)
    except Exception as error:
        if not isinstance(error, (OSError, *errors)):
            raise
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"can't write {path}: {reason}. {remedy}") from error
    finally:
        if not is_special:
            with suppress(OSError):
                partial_path.unlink()


def _target_of(path: Path) -> tuple[bool, Path]:
    """Whether a path names something that is no file and no folder, and where a file would be written.

    Raises:
        OutputError: If it is a link to itself.
    """
    try:
        is_special = path.exists() and not path.is_file() and not path.is_dir()
        return is_special, path if is_special else path.resolve()
    except (OSError, RuntimeError) as error:  # a loop is a RuntimeError before Python 3.13
        raise OutputError(f"can't write {path}: {error}. Choose another file.") from error


def write_file(path: Path, content: bytes | str, *, remedy: str = FULL_DISK_REMEDY) -> None:
    """Write a file atomically; text as UTF-8.

    Raises:
        OutputError: If it can't be written.
    """
    with replacing(path, remedy=remedy) as partial_path:
        partial_path.write_bytes(content.encode() if isinstance(content, str) else content)


def flush_to_disk(stream: IO[bytes]) -> None:
    """Wait until a file is on the disk, before it takes another's place: a power cut then leaves one of the two whole.

    A disk that is full only when the data reaches it, as on network file systems, is found here too.
    """
    stream.flush()
    os.fsync(stream.fileno())


def exchange(one: Path, other: Path) -> bool:
    """Give two files or folders of one file system each other's names, in one step: neither name is ever free.

    Returns:
        Whether that was done. Only Linux can do it, not on every file system; otherwise nothing has changed.
    """
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc has it since 2.28
    if rename is None:
        return False
    status = rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return bool(status == 0)


def remove_partial_files(folder: Path) -> None:
    """Remove what killed writers left in a folder that nobody else writes to now."""
    for path in folder.glob(f"{PARTIAL_PREFIX}*"):
        with suppress(OSError):
            path.unlink()


def check_destination(
    path: Path,
    *,
    flag: str,
    force: bool,
    remedy: str = "add --force to replace it",
    bundle: Path | None = None,
) -> None:
    """Refuse a file before minutes of work that could not be written after them.

    Args:
        path: File to be written later.
        flag: Flag that named the file, for the message.
        force: Whether a file that is there may be replaced.
        remedy: Against a file that is there, beside choosing another.
        bundle: Bundle that the command reads: a file more would spoil it.

    Raises:
        OutputError: If something is in the way, its folder is missing or read-only, or it would lie in the bundle.
    """
    is_special, target = _target_of(path)
    folder = target.parent
    if bundle is not None and bundle.resolve() in (target, *target.parents):
        raise OutputError(f"{flag} {path} lies in the bundle {bundle}, which it would spoil. Choose another.")
    if path.is_dir():
        raise OutputError(f"can't write {path}: it is a folder. Choose another file with {flag}.")
    if path.is_file() and not force:
        raise OutputError(f"{path} exists. Choose another file with {flag}, or {remedy}.")
    if not folder.is_dir() and not is_special:
        raise OutputError(f"can't write {path}: its folder does not exist. Choose another file with {flag}.")
    if not is_special and not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"can't write {path}: its folder is read-only. Choose another file with {flag}.")
