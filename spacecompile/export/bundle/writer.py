"""Writing a bundle so that the place where it belongs holds a whole one or none, at any moment.

The files go to a hidden sibling folder, which takes the bundle's name at the end. It is exchanged with an earlier
bundle in one step where the platform can do that. Elsewhere two renames do it; after a kill between them the next build
brings the earlier bundle back. The folder is locked while its build lives: so the next build can tell the remains of a
killed one, which it removes, from a build that runs beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from spacecompile.contract import FileFact
from spacecompile.errors import OutputError
from spacecompile.files import exchange
from spacecompile.runtime.bundle import MANIFEST_NAME

SUFFIX = ".spacepkg"

_REMEDY = "Free some space or check the permissions, or choose another --output."


@dataclass(frozen=True, kw_only=True)
class BundleWriter:
    """A bundle that is being written.

    Attributes:
        output: Folder that becomes the bundle.
        folder: Hidden folder that holds the files until the end.
        remedy: Sentence that ends the message when something can't be written.
        facts: Size and hash of every file so far, by relative path.
    """

    output: Path
    folder: Path
    remedy: str
    facts: dict[str, FileFact] = field(default_factory=dict)

    def write(self, relative_path: str, content: bytes) -> Path:
        """Write one file and note its hash.

        Returns:
            Where it lies now.

        Raises:
            OutputError: If it can't be written.
        """
        path = self._write(relative_path, content)
        self.facts[relative_path] = FileFact(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        return path

    def write_manifest(self, content: bytes) -> None:
        """Write the manifest, the one file that no manifest lists."""
        self._write(MANIFEST_NAME, content)

    def _write(self, relative_path: str, content: bytes) -> Path:
        path = self.folder / relative_path
        with _translated(self.output, self.remedy):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return path


def check_output(output: Path, *, force: bool, needed_bytes: int) -> None:
    """Refuse an output early: before minutes of work, and without touching what is there.

    Args:
        output: Folder of the bundle.
        force: Whether a bundle that is there may be replaced.
        needed_bytes: Estimated size of the bundle.

    Raises:
        OutputError: If something is in the way, or the disk is too full.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise OutputError(f"{output} exists and is not a folder. Choose another --output.")
    if output.exists() and not force:
        raise OutputError(f"{output} exists. Choose another --output, or add --force to replace it.")
    if output.exists() and any(output.iterdir()) and not (output / MANIFEST_NAME).is_file():
        raise OutputError(
            f"{output} exists and is no bundle: it has files but no {MANIFEST_NAME}. --force only replaces bundles; "
            "choose another --output."
        )
    parent = next(folder for folder in output.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise OutputError(f"can't write {output}: {parent} is not a folder. Choose another --output.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"can't write {output}: {parent} is read-only. Choose another --output.")
    with _translated(output, _REMEDY):
        free_bytes = shutil.disk_usage(parent).free
    if free_bytes < needed_bytes:
        raise OutputError(
            f"{parent} has {free_bytes / 1e6:.0f} MB free; the bundle needs about {needed_bytes / 1e6:.0f} MB. "
            "Free some space, or choose another --output."
        )


@contextlib.contextmanager
def bundle_writer(output: Path, *, remedy: str = _REMEDY) -> Iterator[BundleWriter]:
    """A writer whose files become the bundle at `output` when the block ends without an error, and vanish otherwise.

    A bundle that is there is replaced; `check_output` has made sure that it may be.

    Args:
        output: Folder of the bundle.
        remedy: Sentence that ends the message when something can't be written.

    Raises:
        OutputError: If anything can't be written.
    """
    with _translated(output, remedy):
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_remains(output)
        folder = output.with_name(f"{_prefix(output)}{secrets.token_hex(4)}")
        folder.mkdir()
        lock = _lock(folder)
    try:
        yield BundleWriter(output=output, folder=folder, remedy=remedy)
        with _translated(output, remedy):
            _put_in_place(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _put_in_place(folder: Path, output: Path) -> None:
    replaced = _replaced(output)
    if not output.exists():
        folder.rename(output)
        return
    if exchange(folder, output):
        # What was there has the hidden name now, whose folder goes in any case.
        return
    output.rename(replaced)
    try:
        folder.rename(output)
    except OSError:
        replaced.rename(output)
        raise
    shutil.rmtree(replaced)


def _remove_remains(output: Path) -> None:
    """Undo what killed builds left: bring back a bundle that was about to be replaced, remove unfinished folders."""
    replaced = _replaced(output)
    if replaced.exists() and not output.exists():
        replaced.rename(output)
    elif replaced.exists():
        shutil.rmtree(replaced)
    for remains in [path for path in output.parent.iterdir() if path.name.startswith(_prefix(output))]:
        lock = _lock(remains)
        if lock is not None:
            shutil.rmtree(remains, ignore_errors=True)
            os.close(lock)


def _prefix(output: Path) -> str:
    return f".{output.name}.unfinished-"


def _replaced(output: Path) -> Path:
    return output.with_name(f".{output.name}.replaced")


def _lock(folder: Path) -> int | None:
    """Lock a folder until its descriptor is closed or the process ends; None while another build holds it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def _translated(output: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"can't write {output}: {error.strerror or error}. {remedy}") from error
