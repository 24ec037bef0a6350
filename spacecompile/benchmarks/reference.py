"""A bundle of a checkpoint, built only when there is none of it yet."""

from __future__ import annotations

import hashlib
from pathlib import Path

from spacecompile._version import __version__
from spacecompile.contract import Precision, Progress, Tta, no_progress
from spacecompile.errors import IntegrityError, MissingPartError, UsageError
from spacecompile.runtime.bundle import open_bundle


def is_current(bundle: Path, checkpoint: Path, *, precision: tuple[Precision, ...], tta: tuple[Tta, ...]) -> bool:
    """Whether a bundle is whole and is what building the checkpoint now would give.

    Args:
        bundle: Folder; may be missing.
        checkpoint: Its source.
        precision: Asked for.
        tta: Asked for.
    """
    try:
        manifest = open_bundle(bundle).manifest
        sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    except (UsageError, IntegrityError, OSError):
        return False
    wanted = {(bits, views) for bits in precision for views in tta}
    has = {(variant.precision, variant.tta) for variant in manifest.variants}
    return manifest.source_sha256 == sha256 and manifest.tools.get("spacecompile") == __version__ and wanted <= has


def build_if_needed(
    checkpoint: Path,
    output: Path,
    *,
    precision: tuple[Precision, ...] = ("fp32",),
    tta: tuple[Tta, ...] = ("none", "d4"),
    data: Path | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> bool:
    """Build a checkpoint unless the bundle is current.

    Args:
        checkpoint: To build.
        output: Folder of the bundle; one that is not current is replaced.
        precision: Of the variants.
        tta: Of the variants.
        data: Frames for the parity check.
        force: Build even when the bundle is current.
        progress: Told the steps of the build.

    Returns:
        Whether it was built now.

    Raises:
        MissingPartError: If the compiler is not installed.
        SpacecompileError: As the build.
    """
    if not force and is_current(output, checkpoint, precision=precision, tta=tta):
        return False
    try:
        # Only a machine that builds needs the compiler; a bundle that is there can be measured without it.
        from spacecompile.export.build import build  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingPartError(
            f"building the bundle needs the package {error.name}, which is not installed. Run: "
            "pip install 'spacecompile[compile]'"
        ) from error
    build(checkpoint, output=output, precision=precision, tta=tta, data=data, force=True, progress=progress)
    return True
