"""The checkpoint of a bundle as the bundle was built from it. Needs torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from msgspec.structs import asdict

from spacecompile.contract import ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.network.checkpoint import LoadedCheckpoint, load_checkpoint


def load_source(checkpoint: Path, spec: ModelSpec) -> LoadedCheckpoint:
    """Load a checkpoint under the spec of its bundle.

    Flags of the build may have changed sizes, normalisation and names: whatever is measured beside the bundle's files
    has to do the bundle's task, not the one that the checkpoint was trained for.

    Args:
        checkpoint: That the bundle was built from.
        spec: From the bundle's manifest.

    Raises:
        CheckpointError: If it can't be read, or has another number of classes.
        UsageError: If it is another network than the spec says.
    """
    loaded = load_checkpoint(checkpoint, given=asdict(spec))
    if len(loaded.spec.classes) != len(spec.classes):
        raise CheckpointError(
            f"{checkpoint} has {len(loaded.spec.classes)} classes, the bundle {len(spec.classes)}. Name the checkpoint "
            "that the bundle was built from."
        )
    loaded.network.spec = spec
    return replace(loaded, spec=spec)
