"""Finding the weights of a `segmentation_models_pytorch` network in a file that some trainer wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from spacecompile.errors import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model", "ema", "state_dict_ema")
"""Entries under which trainers keep weights, the most telling first."""

_CHILDREN = ("encoder.", "decoder.", "segmentation_head.", "classification_head.")
"""Beginnings of the names of an smp network's weights."""

_MARK = "segmentation_head.0.weight"
"""Every smp network has it, and nothing else."""

_COMPILED = "_orig_mod."
"""What torch.compile puts before the names of a module's weights."""

_LIGHTNING_MARK = "pytorch-lightning_version"
_DEEPEST = 2
"""Number of dicts within dicts that a state dict may lie in."""


@dataclass(frozen=True, kw_only=True)
class ForeignWeights:
    """Weights of an smp network.

    Attributes:
        tensors: Weights by smp's own names.
        format: Kind of the file, and the place of the weights in it.
        notes: Notes on what was chosen or left out, one clause each.
    """

    tensors: dict[str, Tensor]
    format: str
    notes: tuple[str, ...]


def foreign_weights(content: Mapping[str, Any], path: Path) -> ForeignWeights:
    """Find the weights in what a file holds.

    Args:
        content: Content of the file: a state dict, or a dict that holds one.
        path: Path of the file, for messages.

    Raises:
        CheckpointError: If there are none, or those of several networks side by side.
    """
    places = [place for place in state_dicts(content) if any(key.endswith(_MARK) for key in place[1])]
    if not places:
        raise CheckpointError(
            f"{path} is not a spacecompile checkpoint and holds no segmentation_models_pytorch network: no weight's "
            f"name ends in {_MARK}. Save the state dict of the whole smp model."
        )
    wrapper, tensors = places[0]
    prefixes = sorted({key.removesuffix(_MARK) for key in tensors if key.endswith(_MARK)})
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{path} holds {len(prefixes)} networks, under the prefixes {', '.join(map(repr, prefixes))}. Save the "
            "state dict of the one to compile on its own."
        )
    prefix = prefixes[0]
    named = {
        # Anywhere in a name, since a part of a network can be compiled on its own.
        key.removeprefix(prefix).replace(_COMPILED, ""): value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    kept = {key: value for key, value in named.items() if key.startswith(_CHILDREN)}
    notes = []
    if len(places) > 1:
        notes.append(f"weights of entry {wrapper!r}, not of {', '.join(repr(other) for other, _ in places[1:])}")
    if beside := sorted(named.keys() - kept.keys()):
        notes.append(f"{len(beside)} tensors beside the network left out, first {beside[0]}")
    return ForeignWeights(tensors=kept, format=_format(content, wrapper, prefix), notes=tuple(notes))


def state_dicts(content: Mapping[str, Any], wrapper: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dict in a file's content that holds tensors by name, with the entry it lies under."""
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield wrapper, tensors
    if depth < _DEEPEST:
        for name in WRAPPERS:
            inner = content.get(name)
            if isinstance(inner, Mapping):
                yield from state_dicts(inner, f"{wrapper}.{name}" if wrapper else name, depth + 1)


def _format(content: Mapping[str, Any], wrapper: str, prefix: str) -> str:
    if _LIGHTNING_MARK in content:
        kind = "Lightning checkpoint"
    elif wrapper:
        kind = f"smp state dict in entry {wrapper!r}"
    else:
        kind = "smp state dict"
    return f"{kind}, prefix {prefix!r}" if prefix else kind
