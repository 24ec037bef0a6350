"""The network that a run begins with: a new one, or a checkpoint's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from spacecompile.box_rule import BoxRule
from spacecompile.contract import ModelSpec
from spacecompile.errors import CheckpointError, UsageError
from spacecompile.network.checkpoint import (
    CHECKPOINT_FORMAT_PREFIX,
    LoadedCheckpoint,
    load_checkpoint,
    without_cut_layers,
)
from spacecompile.network.foreign.identify import NETWORK_FIELDS
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train.device import plan_device
from spacecompile.train.encoder_weights import with_encoder_weights
from spacecompile.train.state import is_training_state, load_state

_log = logging.getLogger(__name__)

_CLASSIFIER = "classification_head."
NETWORK_AND_HEADS = (*NETWORK_FIELDS, "part_head", "class_pooling")
"""Fields of the spec that say which network weights are of."""


def initial_network(
    init: Path | None,
    spec_changes: Mapping[str, Any],
    *,
    encoder_weights: str | None = None,
    transfer: bool = False,
    tell: Callable[[str], None] = _log.warning,
) -> MultiTaskNetwork:
    """A new network, or the one of a checkpoint with its weights.

    Args:
        init: The checkpoint, or the `last.pt` of a run, whose averaged weights are taken where it has any; None for a
            new network.
        spec_changes: Fields of `ModelSpec` that differ from the reference network's, or from those of `init`.
        encoder_weights: Pretrained weights for the encoder of a new network, see `with_encoder_weights`.
        transfer: Take what fits of another network: weights of the same name and shape. The others are new.
        tell: Told how much that was.

    Raises:
        CheckpointError: If `init` can't be read, or its weights don't fit the network asked for; with `transfer`, if
            none does; if pretrained weights of the encoder can't be had.
        UsageError: If the classes asked for don't fit `init`, or a field makes no sense.
    """
    if init is None:
        network = MultiTaskNetwork(msgspec.structs.replace(ModelSpec(), **spec_changes))
        if encoder_weights is None:
            return network
        is_named = not spec_changes.keys().isdisjoint(("mean", "std"))
        return with_encoder_weights(network, encoder_weights, keeps_normalisation=is_named, tell=tell)
    loaded = _loaded(init)
    # Whatever its logits were made for: from here on they are trained and judged with half-pixel upsampling.
    # A box head belongs to the features that it was trained on.
    ours = {"box": BoxRule(), "box_d4": None, "box_head": None, "mask_upsampling": "half_pixel"}
    loaded.network.box_head = None
    spec = msgspec.structs.replace(loaded.spec, **{**ours, **spec_changes})
    if not transfer or len(spec.classes) == len(loaded.spec.classes):  # a classifier of another size is a new one
        _require_same_classes(loaded, spec, init)
    if transfer:
        network, told = _transferred(loaded, spec, init)
        tell(told)
        return network
    _require_same_network(loaded, spec, init)
    network = MultiTaskNetwork(spec)
    try:
        network.load_state_dict(without_cut_layers(network, loaded.network.state_dict()))
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights of {init} don't fit the network asked for. Leave out --recipe, or start without --init."
        ) from error
    return network


def _loaded(init: Path) -> LoadedCheckpoint:
    """A checkpoint, or the weights that a run's state would be judged by."""
    if not is_training_state(init):
        return load_checkpoint(init)
    network = load_state(init, plan_device("cpu", amp=False)).evaluated
    return LoadedCheckpoint(
        network=network.eval(), spec=network.spec, training={}, sha256="", format=CHECKPOINT_FORMAT_PREFIX
    )


def _transferred(loaded: LoadedCheckpoint, spec: ModelSpec, init: Path) -> tuple[MultiTaskNetwork, str]:
    """The network, and what it took, in a sentence."""
    network = MultiTaskNetwork(spec)
    known, new = loaded.network.state_dict(), network.state_dict()
    if _is_ours(loaded) and loaded.spec.classes != spec.classes:  # its rows are answers to another question
        known = {name: value for name, value in known.items() if not name.startswith(_CLASSIFIER)}
    fitting = {name: known[name] for name, value in new.items() if name in known and known[name].shape == value.shape}
    if not any(value.ndim > 1 for value in fitting.values()):  # a bias or a norm says nothing without its weights
        raise CheckpointError(f"no weight of {init} fits the network asked for. Start without --init and --transfer.")
    network.load_state_dict({**new, **fitting})
    taken = sum(value.numel() for value in fitting.values()) / sum(value.numel() for value in new.values())
    modules = sorted({".".join(name.split(".")[:2]) for name in new if name not in fitting})
    what = f"new are tensors of {', '.join(modules)}" if modules else "none is new"
    return network, f"{len(fitting)} of {len(new)} tensors ({taken:.1%} of the values) are from {init}; {what}"


def _require_same_network(loaded: LoadedCheckpoint, spec: ModelSpec, init: Path) -> None:
    differing = [
        f"{name} {getattr(loaded.spec, name)!r}, not {getattr(spec, name)!r}"
        for name in NETWORK_AND_HEADS
        if getattr(loaded.spec, name) != getattr(spec, name)
    ]
    if differing:
        raise CheckpointError(
            f"the weights of {init} don't fit the network of the recipe: they are of {'; '.join(differing)}. Leave out "
            "--recipe, take what fits with --transfer, or start without --init."
        )


def _is_ours(loaded: LoadedCheckpoint) -> bool:
    """A foreign file has no class map: what its classes are called is the user's word."""
    return loaded.format.startswith(CHECKPOINT_FORMAT_PREFIX)


def _require_same_classes(loaded: LoadedCheckpoint, spec: ModelSpec, init: Path) -> None:
    """Other names for as many classes are a new start of the classifier; another order would mix up a trained one."""
    known, asked = loaded.spec.classes, spec.classes
    if len(known) != len(asked):
        what = f"{len(known)} classes ({', '.join(known)}), and --classes names {len(asked)}"
    elif _is_ours(loaded) and known != asked and set(known) == set(asked):
        what = f"the classes in the order {', '.join(known)}, and --classes names another"
    else:
        return
    raise UsageError(f"--init {init} has {what}. Leave out --classes, or start without --init.")
