"""The network that a run begins with: a new one, or a checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from spacecompile.box_rule import BoxRule
from spacecompile.contract import ModelSpec
from spacecompile.errors import CheckpointError, UsageError
from spacecompile.network.checkpoint import CHECKPOINT_FORMAT_PREFIX, LoadedCheckpoint, load_checkpoint
from spacecompile.network.identify import NETWORK_FIELDS
from spacecompile.network.model import MultiTaskNetwork


def initial_network(init: Path | None, spec_changes: Mapping[str, Any]) -> MultiTaskNetwork:
    """A new network, or the one of a checkpoint with its weights.

    Args:
        init: The checkpoint; None for a new network.
        spec_changes: Fields of `ModelSpec` that differ from the reference network's, or from those of `init`.

    Raises:
        CheckpointError: If `init` can't be read, or its weights don't fit the network asked for.
        UsageError: If the classes asked for don't fit `init`, or a field makes no sense.
    """
    if init is None:
        return MultiTaskNetwork(msgspec.structs.replace(ModelSpec(), **spec_changes))
    loaded = load_checkpoint(init)
    # Whatever its logits were made for: from here on they are trained and judged with half-pixel upsampling.
    # A box head belongs to the features that it was trained on.
    ours = {"box": BoxRule(), "box_d4": None, "box_head": None, "mask_upsampling": "half_pixel"}
    loaded.network.box_head = None
    spec = msgspec.structs.replace(loaded.spec, **{**ours, **spec_changes})
    _require_same_network(loaded, spec, init)
    _require_same_classes(loaded, spec, init)
    network = MultiTaskNetwork(spec)
    try:
        network.load_state_dict(loaded.network.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of {init} don't fit the network asked for. Leave out --recipe, or start without --init."
        ) from error
    return network


def _require_same_network(loaded: LoadedCheckpoint, spec: ModelSpec, init: Path) -> None:
    differing = [
        f"{name} {getattr(loaded.spec, name)!r}, not {getattr(spec, name)!r}"
        for name in (*NETWORK_FIELDS, "part_head")
        if getattr(loaded.spec, name) != getattr(spec, name)
    ]
    if differing:
        raise CheckpointError(
            f"the weights of {init} don't fit the network of the recipe: they are of {'; '.join(differing)}. Leave out "
            "--recipe, or start without --init."
        )


def _require_same_classes(loaded: LoadedCheckpoint, spec: ModelSpec, init: Path) -> None:
    """Other names for as many classes are a new start of the classifier; another order would mix up a trained one."""
    known, asked = loaded.spec.classes, spec.classes
    # A foreign file has no class map: what its classes are called is the user's word.
    is_ours = loaded.format.startswith(CHECKPOINT_FORMAT_PREFIX)
    if len(known) != len(asked):
        what = f"{len(known)} classes ({', '.join(known)}), and --classes names {len(asked)}"
    elif is_ours and known != asked and set(known) == set(asked):
        what = f"the classes in the order {', '.join(known)}, and --classes names another"
    else:
        return
    raise UsageError(f"--init {init} has {what}. Leave out --classes, or start without --init.")
