"""From the weights of an smp network to its spec: architecture, encoder, depth, widths, heads.

Nothing is guessed: what names and shapes suggest is built, without memory, and must have exactly the file's weights.
What no weight tells is taken from what the caller gives, or from a default that is listed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from spacecompile.contract import PARTS, SPARK_CLASSES, ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.network.foreign.decoder import ARCHITECTURES, Architecture, architecture_named, architecture_of
from spacecompile.network.foreign.encoders import Shapes, shapes_of
from spacecompile.network.foreign.match import Identified, matches_of
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.run import run_once

NETWORK_FIELDS = ("architecture", "encoder", "encoder_depth", "decoder_options")
"""Fields of the spec that say which network it is; weights fit no other."""

_MASKS = "segmentation_head.0.weight"
_CLASSIFIER = "classification_head.3.weight"
_SEED = 0


def identify(tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> Identified:
    """Find the network that weights belong to.

    Args:
        tensors: Weights by smp's names.
        given: Fields of the spec that are known.

    Raises:
        CheckpointError: If there is none, or several that compute differently, or it lacks a head or a part mask.
        UsageError: If what is given can't be.
    """
    shapes = shapes_of(tensors)
    num_classes = _checked_heads(shapes)
    classes = given.get("classes") or _default_classes(num_classes)
    if len(classes) != num_classes:
        raise CheckpointError(
            f"its classifier has {num_classes} classes, but {len(classes)} names are given. Name all with --classes."
        )
    base = replace(ModelSpec(classes=tuple(classes)), **{key: given[key] for key in given if key != "classes"})
    architecture = _architecture(shapes, given)
    return _one_of(matches_of(shapes, base, architecture, given), tensors)


def _default_classes(num_classes: int) -> tuple[str, ...]:
    """The benchmark's names where the number fits, else numbered ones."""
    if num_classes == len(SPARK_CLASSES):
        return SPARK_CLASSES
    return tuple(f"class-{index}" for index in range(num_classes))


def load_into(network: MultiTaskNetwork, tensors: Mapping[str, Tensor]) -> MultiTaskNetwork:
    """Give a network weights that have its shapes, as float32, and set it to evaluation mode."""
    weights = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    # Batch norm's counters may be missing, see `shapes_of`.
    counters = {key: value for key, value in network.state_dict().items() if key not in weights}
    network.load_state_dict({**counters, **weights})
    return network.eval()


def _checked_heads(shapes: Shapes) -> int:
    """The number of classes."""
    num_masks = shapes[_MASKS][0]
    if num_masks != len(PARTS):
        raise CheckpointError(
            f"its segmentation head gives {num_masks} mask{'s' * (num_masks != 1)}; {len(PARTS)} are needed, "
            f"{' and '.join(PARTS)} in this order. Train it with classes={len(PARTS)}."
        )
    if _CLASSIFIER not in shapes:
        raise CheckpointError(
            "it has no classification head; the answer needs the class of the craft. Train the smp model with "
            'aux_params={"classes": N}.'
        )
    return shapes[_CLASSIFIER][0]


def _architecture(shapes: Shapes, given: Mapping[str, Any]) -> Architecture:
    name = given.get("architecture")
    found = architecture_of(shapes) if name is None else architecture_named(name)
    if found is not None:
        return found
    known = ", ".join(architecture.name for architecture in ARCHITECTURES)
    if name is not None:
        raise CheckpointError(f"--architecture is {name!r}; smp checkpoints of these can be read: {known}.")
    first = next((key for key in shapes if key.startswith("decoder.")), "none at all")
    raise CheckpointError(
        f"its decoder is of no known architecture: its first weight is {first}. Known are {known}; name one with "
        "--architecture."
    )


def _one_of(matches: Sequence[Identified], tensors: Mapping[str, Tensor]) -> Identified:
    """The only match, or the first of several that compute the same."""
    if len(matches) == 1:
        return matches[0]
    unlike: list[tuple[Identified, tuple[Tensor, ...]]] = []
    failure: CheckpointError | None = None
    for match in matches:
        network = load_into(MultiTaskNetwork(match.spec, whole_encoder=True), tensors)
        try:
            outputs = run_once(network, match.spec.input_size_px, seed=_SEED)
        except CheckpointError as error:
            failure = failure or error
            continue
        if not any(_same(outputs, others) for _, others in unlike):
            unlike.append((match, outputs))
    if not unlike and failure is not None:
        raise failure
    if len(unlike) == 1:
        return unlike[0][0]
    specs = [match.spec for match, _ in unlike]
    by_encoder = len({spec.encoder for spec in specs}) > 1
    flag, values = (
        ("--encoder", [spec.encoder for spec in specs])
        if by_encoder
        else ("--encoder-depth", [str(spec.encoder_depth) for spec in specs])
    )
    raise CheckpointError(
        f"its weights fit {len(specs)} networks that compute differently: {specs[0].architecture} with {flag} "
        f"{' or '.join(dict.fromkeys(values))}. Say which it is with {flag}."
    )


def _same(outputs: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, others, strict=True))
