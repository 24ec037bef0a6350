"""From the weights of an smp network to its spec: architecture, encoder, depth, widths, heads.

Nothing is guessed: what names and shapes suggest is built, without memory, and must have exactly the file's weights.
What no weight tells is taken from what the caller gives, or from a default that is listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from spacecompile.contract import PARTS, SPARK_CLASSES, ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.network.encoder_index import DEPTHS, Shapes, WithoutWeights, encoders_like, shapes_of
from spacecompile.network.identify_decoder import (
    ARCHITECTURES,
    Architecture,
    Options,
    architecture_named,
    architecture_of,
)
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.run import run_once

NETWORK_FIELDS = ("architecture", "encoder", "encoder_depth", "decoder_options")
"""Fields of the spec that say which network it is; weights fit no other."""

_MASKS = "segmentation_head.0.weight"
_CLASSIFIER = "classification_head.3.weight"
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Identified:
    """A network that has exactly the weights of a file.

    Attributes:
        spec: Of it, with what the caller gave.
        options: Those of its decoder options that no weight tells and nobody gave.
    """

    spec: ModelSpec
    options: Options


def identify(tensors: Mapping[str, Tensor], given: Mapping[str, Any]) -> Identified:
    """Find the network that weights belong to.

    Args:
        tensors: By smp's names.
        given: Fields of the spec that are known.

    Raises:
        CheckpointError: If there is none, or several that compute differently, or it lacks a head or a part mask.
        UsageError: If what is given can't be.
    """
    shapes = shapes_of(tensors)
    num_classes = _checked_heads(shapes)
    classes = given.get("classes") or default_classes(num_classes)
    if len(classes) != num_classes:
        raise CheckpointError(
            f"its classifier has {num_classes} classes, but {len(classes)} names are given. Name all with --classes."
        )
    base = replace(ModelSpec(classes=tuple(classes)), **{key: given[key] for key in given if key != "classes"})
    architecture = _architecture(shapes, given)
    matches = _matches(shapes, base, architecture, given)
    return _one_of(matches, tensors)


def default_classes(num_classes: int) -> tuple[str, ...]:
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


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    encoder: str
    depths: tuple[int, ...]


def _candidates(shapes: Shapes, given: Mapping[str, Any]) -> list[_Candidate]:
    depth = given.get("encoder_depth")
    depths = DEPTHS if depth is None else (depth,)
    if "encoder" in given:
        return [_Candidate(encoder=given["encoder"], depths=depths)]
    encoder = {key.removeprefix("encoder."): shape for key, shape in shapes.items() if key.startswith("encoder.")}
    known = [
        _Candidate(encoder=name, depths=tuple(depth for depth in depths if depth in possible))
        for name, possible in encoders_like(encoder)
    ]
    found = [candidate for candidate in known if candidate.depths]
    if not found:
        first = next((f"{key} {list(shape)}" for key, shape in encoder.items()), "none at all")
        raise CheckpointError(
            f"its encoder of {len(encoder)} weights, the first {first}, is like none that smp or timm has"
            f"{'' if depth is None else f' at depth {depth}'}. Name it with --encoder, timm's as tu-NAME."
        )
    return found


def _matches(shapes: Shapes, base: ModelSpec, architecture: Architecture, given: Mapping[str, Any]) -> list[Identified]:
    """Every candidate that has exactly these weights."""
    given_options = given.get("decoder_options", {})
    try:
        told = architecture.options(shapes)
    except KeyError as error:
        raise CheckpointError(f"its decoder is not smp's {architecture.name}: it has no weight {error}.") from error
    matches, refusals = [], []
    depths_that_fit: set[int] = set()
    for candidate in _candidates(shapes, given):
        # Encoders with the same weights give as many features: the depths of the first are those of all.
        for depth in [depth for depth in candidate.depths if not depths_that_fit or depth in depths_that_fit]:
            spec = replace(base, architecture=architecture.name, encoder=candidate.encoder, encoder_depth=depth)
            built = _first_built(spec, {**told, **given_options}, architecture, given_options)
            if isinstance(built, str):
                refusals.append(built)
            elif difference := _difference(shapes, built):
                name = f"{architecture.name} with encoder {candidate.encoder} at depth {depth}"
                refusals.append(f"it is not smp's {name}: {difference}")
            else:
                depths_that_fit.add(depth)
                unseen = {key: built.spec.decoder_options[key] for key in architecture.unseen}
                open_options = {key: value for key, value in unseen.items() if key not in given_options}
                matches.append(Identified(spec=built.spec, options=open_options))
    if not matches:
        raise CheckpointError(
            f"{refusals[0]}. If it is an smp network of another kind, give --architecture, --encoder, --encoder-depth "
            "or --decoder-options."
        )
    return matches


def _first_built(
    spec: ModelSpec, options: Options, architecture: Architecture, given_options: Options
) -> MultiTaskNetwork | str:
    """The network, without weights, with the first choice of unseen options that smp takes; else why it refuses."""
    refusal = ""
    for choice in _choices(architecture, given_options):
        try:
            with WithoutWeights():
                return MultiTaskNetwork(replace(spec, decoder_options={**options, **choice}))
        except CheckpointError as error:
            refusal = refusal or str(error).rstrip(".")
    return refusal


def _choices(architecture: Architecture, given_options: Options) -> Iterator[Options]:
    """Values of the options that no weight tells and nobody gave."""
    unseen = {key: values for key, values in architecture.unseen.items() if key not in given_options}
    for values in product(*unseen.values()):
        yield dict(zip(unseen, values, strict=True))


def _difference(shapes: Shapes, network: MultiTaskNetwork) -> str:
    """How a network's weights differ from the file's, in words; empty if they don't."""
    wanted = shapes_of(network.state_dict())
    missing, beyond = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
    unequal = [key for key in wanted if key in shapes and wanted[key] != shapes[key]]
    parts = []
    if missing:
        parts.append(f"{len(missing)} of its weights are not in the file, first {missing[0]}")
    if beyond:
        parts.append(f"{len(beyond)} weights of the file are not in it, first {beyond[0]}")
    if unequal:
        key = unequal[0]
        parts.append(
            f"{len(unequal)} have another shape, first {key}: {list(shapes[key])} in the file, {list(wanted[key])} in it"
        )
    return ", ".join(parts)


def _one_of(matches: Sequence[Identified], tensors: Mapping[str, Tensor]) -> Identified:
    """The only match, or the first of several that compute the same."""
    if len(matches) == 1:
        return matches[0]
    unlike: list[tuple[Identified, tuple[Tensor, ...]]] = []
    failure: CheckpointError | None = None
    for match in matches:
        network = load_into(MultiTaskNetwork(match.spec), tensors)
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
