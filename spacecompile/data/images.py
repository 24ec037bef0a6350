"""Finding the images that a user means, under names that do not depend on the machine."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spacecompile.errors import UsageError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of the files that count as images in a folder. A file named outright is taken whatever its suffix."""

_OVERLAY_SUFFIX = "_overlay.jpg"


@dataclass(frozen=True, kw_only=True)
class NamedImage:
    """One image to answer.

    Attributes:
        path: Path of the file, as the caller would open it.
        name: Path relative to the folder that all images of the call share, with forward slashes.
    """

    path: Path
    name: str


def find_images(arguments: Sequence[str], *, recursive: bool = False) -> list[NamedImage]:
    """The images that the arguments stand for, each once, sorted by name.

    Args:
        arguments: Files; folders, which stand for the images in them; the root of a SPARK data set, which stands for
            everything below its `images`, or in 2022's layout for its labelled splits; patterns with `*`, `?`, `[...]`
            or `**`, for shells that pass them on.
        recursive: Whether the images of subfolders are taken too.

    Raises:
        UsageError: If an argument stands for nothing.
    """
    paths: dict[str, Path] = {}
    for argument in arguments:
        for path in _paths_of(argument, recursive=recursive):
            # Not resolve(), which would name a linked image after its target.
            paths.setdefault(os.path.abspath(path), path)  # noqa: PTH100
    if not paths:
        raise UsageError("no image was named. Give files, a folder or a pattern.")
    root = os.path.commonpath([Path(path).parent for path in paths])
    named = [NamedImage(path=path, name=Path(full).relative_to(root).as_posix()) for full, path in paths.items()]
    return sorted(named, key=lambda image: image.name)


def overlay_names(images: Iterable[NamedImage]) -> list[str]:
    """One overlay file name per image, all different, also on file systems that ignore case.

    The stem alone where that is unique, else the whole relative name with `__` for slashes.
    """
    images = list(images)
    stems = Counter(Path(image.name).stem.casefold() for image in images)
    names: list[str] = []
    taken: set[str] = set()
    for image in images:
        stem = Path(image.name).stem
        if stems[stem.casefold()] > 1:
            stem = image.name.replace("/", "__").replace(".", "_")
        name, attempt = stem + _OVERLAY_SUFFIX, 1
        while name.casefold() in taken:
            attempt += 1
            name = f"{stem}_{attempt}{_OVERLAY_SUFFIX}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _paths_of(argument: str, *, recursive: bool) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        return _images_in(path, recursive=recursive)
    if path.exists():
        return [path]
    # Path.glob takes no absolute pattern.
    matches = [Path(match) for match in glob.glob(argument, recursive=True)]  # noqa: PTH207
    files = _images_among(matches)
    if not files:
        kind = "pattern" if glob.has_magic(argument) else "path"
        raise UsageError(f"{kind} {argument} matches no image. Check it; a folder or a quoted pattern works too.")
    return files


def _images_in(folder: Path, *, recursive: bool) -> list[Path]:
    found = _images_among(folder.rglob("*") if recursive else folder.iterdir())
    if not found and not recursive:
        found = _images_among((folder / "images").rglob("*"))
        found = found or _images_among(path for split in _labelled_splits(folder) for path in split.iterdir())
    if not found:
        advice = "Check the path." if recursive else "Check the path, or take subfolders along with --recursive."
        raise UsageError(f"folder {folder} holds no image ({', '.join(SUFFIXES)}). {advice}")
    return found


def _labelled_splits(folder: Path) -> list[Path]:
    """Subfolders of a SPARK 2022 root: those that a label table is named after."""
    tables = (*folder.glob("*.csv"), *(folder / "labels").glob("*.csv"))
    return sorted({split for table in tables if (split := folder / table.stem).is_dir()})


def _images_among(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.is_file() and _is_image(path))


def _is_image(path: Path) -> bool:
    """By name; neither hidden files such as macOS leaves behind nor overlays of an earlier call."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.startswith(".") and not name.endswith(_OVERLAY_SUFFIX)
