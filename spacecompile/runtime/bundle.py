"""Opening a bundle: the manifest is read strictly, and every byte is hashed before any parser sees it.

A file is read once into memory, those very bytes are hashed and handed on, so that nothing can change between the
check and the use. The manifest is the root of trust: `Bundle.manifest_sha256` is what a user notes down to
recognise a bundle later.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from spacecompile.contract import (
    HEALTH_SIGNALS,
    SCHEMA_VERSION,
    FileFact,
    Manifest,
    Progress,
    Variant,
    is_safe_relative_path,
    no_progress,
)
from spacecompile.errors import IntegrityError, SpacecompileError, UsageError

MANIFEST_NAME = "manifest.json"
# A manifest is some 20 kB; a file beyond this is none, and is not read.
_MANIFEST_BYTES_MAX = 16 << 20
# What file managers and archivers leave behind; nothing reads them.
_JUNK = re.compile(r"(\._.*|\.DS_Store|Thumbs\.db|desktop\.ini)", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEDY = "The bundle is damaged or was changed: copy it again, or build it again with `spacecompile build`."

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle on disk whose manifest was read.

    Attributes:
        root: Folder of the bundle.
        manifest: Content of the manifest.
        manifest_sha256: SHA-256 of the manifest file.
        extra_files: Relative paths of the files in the folder that the manifest does not list. Nothing reads them.
    """

    root: Path
    manifest: Manifest
    manifest_sha256: str
    extra_files: tuple[str, ...]

    def read(self, relative_path: str) -> bytes:
        """The bytes of one listed file, after their size and hash were checked.

        Raises:
            IntegrityError: If the file is not listed, missing, behind a symbolic link, unreadable, or differs
                from the manifest.
        """
        fact = self.manifest.files.get(relative_path)
        if fact is None:
            raise IntegrityError(f"{self.root} lists no file {relative_path!r} in its manifest. {_REMEDY}")
        content = _read_at_most(_inside(self.root, relative_path), fact.bytes)
        sha256 = hashlib.sha256(content).hexdigest()
        if len(content) == fact.bytes and sha256 != fact.sha256:
            raise IntegrityError(
                f"{self.root / relative_path} has SHA-256 {sha256}; the manifest says {fact.sha256}. {_REMEDY}"
            )
        if len(content) != fact.bytes:
            raise _wrong_size(self.root / relative_path, fact)
        return content

    def verify_all(self, *, progress: Progress = no_progress) -> None:
        """Check every file against the manifest; files that it does not list are refused too.

        Raises:
            IntegrityError: At the first file that differs.
        """
        if self.extra_files:
            raise IntegrityError(
                f"{self.root} holds files that its manifest does not list: {', '.join(self.extra_files)}. "
                "Move them out, or build the bundle again."
            )
        for done, relative_path in enumerate(self.manifest.files, start=1):
            self.read(relative_path)
            progress("hashes", done, len(self.manifest.files))

    def variant(self, name: str) -> Variant:
        """The variant of a name.

        Raises:
            UsageError: If there is no such variant; the message lists the names.
        """
        for variant in self.manifest.variants:
            if variant.name == name:
                return variant
        raise UsageError(f"{self.root} has no variant {name!r}; it has {self.variant_names()}. Choose one of these.")

    def variant_names(self) -> str:
        """The names of all variants, for messages."""
        return ", ".join(variant.name for variant in self.manifest.variants)


def open_bundle(path: str | Path, *, verify: bool = True) -> Bundle:
    """Read the manifest of a bundle and check its files.

    Args:
        path: Folder of the bundle.
        verify: Whether every file is hashed now. Otherwise only presence and size are checked here, and `Bundle.read`
            hashes each file when it is used, as `load` does for a quick first answer.

    Raises:
        UsageError: If there is no such folder.
        IntegrityError: If the manifest is missing, malformed or of another version, or a file differs from it.
    """
    root = Path(path)
    if not root.exists():
        raise UsageError(f"bundle {root} does not exist. Check the path, or make one with `spacecompile build`.")
    if not root.is_dir():
        raise UsageError(f"{root} is a file; a bundle is a folder with a {MANIFEST_NAME}. Name the folder.")
    content = _read_at_most(_inside(root, MANIFEST_NAME), _MANIFEST_BYTES_MAX)
    manifest = _manifest_from_json(content, root / MANIFEST_NAME)
    for relative_path, fact in manifest.files.items():
        _check_size(_inside(root, relative_path), fact)
    extra_files = _extra_files(root, manifest)
    if extra_files:
        _log.warning("%s holds files that its manifest does not list, they are not read: %s", root, extra_files)
    bundle = Bundle(
        root=root,
        manifest=manifest,
        manifest_sha256=hashlib.sha256(content).hexdigest(),
        extra_files=extra_files,
    )
    if verify:
        for relative_path in manifest.files:
            bundle.read(relative_path)
    return bundle


class _Versioned(msgspec.Struct):
    schema_version: int


def _manifest_from_json(content: bytes, path: Path) -> Manifest:
    try:
        version = msgspec.json.decode(content, type=_Versioned).schema_version
        if version != SCHEMA_VERSION:
            raise IntegrityError(
                f"{path} has schema version {version}; this spacecompile reads version {SCHEMA_VERSION}. "
                "Build the bundle again, or install the spacecompile that made it."
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path} is not a manifest: {error}. {_REMEDY}") from error
    except UsageError as error:
        # The spec checks itself when it is decoded.
        raise IntegrityError(f"{path} holds an impossible spec: {error} {_REMEDY}") from error
    problem = _inconsistency(manifest)
    if problem:
        raise IntegrityError(f"{path} contradicts itself: {problem}. {_REMEDY}")
    return manifest


def _inconsistency(manifest: Manifest) -> str | None:
    """What is wrong with a manifest that has the right fields, or None."""
    names = [variant.name for variant in manifest.variants]
    unlisted = [variant.path for variant in manifest.variants if variant.path not in manifest.files]
    unsafe = [path for path in manifest.files if not is_safe_relative_path(path) or "\0" in path]
    unhashed = [path for path, fact in manifest.files.items() if fact.bytes < 0 or not _SHA256.fullmatch(fact.sha256)]
    problems = {
        f"it lists {unsafe[:1]}, which is not a path inside the bundle": bool(unsafe),
        "it has no variant": not names,
        f"variant names {names} repeat": len(set(names)) != len(names),
        f"variant file {unlisted[:1]} has no hash": bool(unlisted),
        f"the size or hash of {unhashed[:1]} is malformed": bool(unhashed),
        f"its health signals are {manifest.health_signals}, expected {HEALTH_SIGNALS}": (
            manifest.health_signals != HEALTH_SIGNALS
        ),
    }
    return next((problem for problem, found in problems.items() if found), None)


def _inside(root: Path, relative_path: str) -> Path:
    """The absolute path of a listed file, refused when a symbolic link is on the way from the bundle's root."""
    path = root.resolve() / relative_path
    try:
        resolved = path.resolve(strict=True)
    except OSError as error:
        raise IntegrityError(f"{root / relative_path} can't be read: {error.strerror}. {_REMEDY}") from error
    except RuntimeError as error:  # a loop of links, before Python 3.13
        raise IntegrityError(f"{root / relative_path} is a loop of symbolic links. {_REMEDY}") from error
    if resolved != path:
        raise IntegrityError(
            f"{root / relative_path} is behind a symbolic link to {resolved}; a bundle holds plain files. {_REMEDY}"
        )
    if not path.is_file():
        raise IntegrityError(f"{root / relative_path} is not a plain file. {_REMEDY}")
    return path


def _read_at_most(path: Path, limit_bytes: int) -> bytes:
    """The file's content, one byte more than the limit where it is longer."""
    try:
        with path.open("rb") as stream:
            return stream.read(limit_bytes + 1)
    except OSError as error:
        raise IntegrityError(f"{path} can't be read: {error.strerror}. Check its permissions.") from error


def _check_size(path: Path, fact: FileFact) -> None:
    if path.stat().st_size != fact.bytes:
        raise _wrong_size(path, fact)


def _wrong_size(path: Path, fact: FileFact) -> SpacecompileError:
    return IntegrityError(f"{path} has {path.stat().st_size:,} bytes; the manifest says {fact.bytes:,}. {_REMEDY}")


def _extra_files(root: Path, manifest: Manifest) -> tuple[str, ...]:
    """Relative paths of the files that the manifest does not list, but for what file managers leave behind."""
    extra = []
    for folder, folder_names, names in os.walk(root):
        # Links to folders are not walked into: each counts as one file that is not listed.
        links = [name for name in folder_names if (Path(folder) / name).is_symlink()]
        for name in (*names, *links):
            relative_path = (Path(folder) / name).relative_to(root).as_posix()
            listed = relative_path == MANIFEST_NAME or relative_path in manifest.files
            if not listed and not _JUNK.fullmatch(name):
                extra.append(relative_path)
    return tuple(sorted(extra))
