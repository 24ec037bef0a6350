"""Whether a bundle is what building a checkpoint now would give."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from spacecompile import __version__
from spacecompile.errors import IntegrityError, UsageError
from spacecompile.runtime.bundle import open_bundle


def is_current(bundle: Path, checkpoint: Path, *, variants: Sequence[str] = ("fp32", "fp32-d4")) -> bool:
    """Whether a bundle is whole, made of this checkpoint by this version, and has the variants.

    Args:
        bundle: Folder of the bundle; may be missing or damaged.
        checkpoint: Checkpoint that the bundle should come from.
        variants: Names of the variants that the bundle must have.
    """
    try:
        manifest = open_bundle(bundle).manifest
        sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    except (UsageError, IntegrityError, OSError):
        return False
    return (
        manifest.source_sha256 == sha256
        and manifest.tools.get("spacecompile") == __version__
        and set(variants) <= {variant.name for variant in manifest.variants}
    )
