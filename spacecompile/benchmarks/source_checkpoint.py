"""Finding the checkpoint that a bundle was built from: the peers need its weights. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from spacecompile.errors import CheckpointError, MissingPartError

SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
REFERENCE = "reference.pt"


def clone_folder() -> Path | None:
    """The `checkpoints` folder of the clone that this package lies in; None when it is installed from a wheel."""
    folder = Path(__file__).resolve().parents[2] / "checkpoints"
    return folder if folder.is_dir() and (folder.parent / "pyproject.toml").is_file() else None


def reference_checkpoint() -> Path:
    """The committed reference checkpoint.

    Raises:
        MissingPartError: Outside a clone.
    """
    folder = clone_folder()
    if folder is None or not (folder / REFERENCE).is_file():
        raise MissingPartError(
            f"the reference checkpoint checkpoints/{REFERENCE} comes with a clone of the repository, not with the "
            "installed package. Run this in a clone, or name a bundle of yours."
        )
    return folder / REFERENCE


def find_checkpoint(source_sha256: str, *, bundle_root: Path, working_folder: Path) -> Path | None:
    """The file with that hash among `./checkpoints`, the bundle's neighbours and the clone's checkpoints.

    Args:
        source_sha256: From the manifest.
        bundle_root: Folder of the bundle.
        working_folder: The user's.
    """
    folders = [working_folder / "checkpoints", bundle_root.resolve().parent, clone_folder()]
    return next((path for path in _candidates(folders) if _sha256(path) == source_sha256), None)


def check_checkpoint(path: Path, source_sha256: str) -> Path:
    """A named checkpoint, refused unless the bundle was built from it.

    Raises:
        CheckpointError: If it does not exist or is another one.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file. Check --checkpoint.")
    seen = _sha256(path) or "unreadable"
    if seen != source_sha256:
        raise CheckpointError(
            f"{path} has SHA-256 {seen[:12]}; the bundle was built from {source_sha256[:12]}. A peer with other "
            "weights is no peer: name the right file with --checkpoint, or build the bundle again."
        )
    return path


def _candidates(folders: Iterable[Path | None]) -> Iterator[Path]:
    for folder in dict.fromkeys(folders):
        if folder is not None and folder.is_dir():
            yield from sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
