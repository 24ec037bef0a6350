"""Networks that have exactly the weights of a state dict: candidates built without memory and compared.

Encoder names come from an index, decoder options from shapes; depth and what no weight tells are tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from msgspec.structs import replace

from spacecompile.contract import ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.network.foreign.decoder import Architecture, Options
from spacecompile.network.foreign.encoders import DEPTHS, Shapes, WithoutWeights, encoders_like, shapes_of
from spacecompile.network.model import MultiTaskNetwork


@dataclass(frozen=True, kw_only=True)
class Identified:
    """A network that has exactly the weights of a file.

    Attributes:
        spec: Spec of the network, with what the caller gave.
        options: Decoder options that no weight tells and nobody gave.
    """

    spec: ModelSpec
    options: Options


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


def matches_of(
    shapes: Shapes, base: ModelSpec, architecture: Architecture, given: Mapping[str, Any]
) -> list[Identified]:
    """Every network of an architecture that has exactly these weights.

    Args:
        shapes: Shapes of the weights by smp's names.
        base: Spec without the fields that say which network it is.
        architecture: Architecture to build.
        given: Fields of the spec that are known.

    Raises:
        CheckpointError: If there is none; says how the nearest differs.
    """
    given_options = given.get("decoder_options", {})
    try:
        told = architecture.options(shapes)
    except KeyError as error:
        raise CheckpointError(f"its decoder is not smp's {architecture.name}: it has no weight {error}.") from error
    matches, refusals, differences = [], [], []
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
                differences.append(f"it is not smp's {name}: {difference}")
            else:
                depths_that_fit.add(depth)
                unseen = {key: built.spec.decoder_options[key] for key in architecture.unseen}
                open_options = {key: value for key, value in unseen.items() if key not in given_options}
                matches.append(Identified(spec=built.spec, options=open_options))
    if not matches:
        raise CheckpointError(
            f"{[*differences, *refusals][0]}. If it is an smp network of another kind, give --architecture, --encoder, "
            "--encoder-depth or --decoder-options."
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
                return MultiTaskNetwork(replace(spec, decoder_options={**options, **choice}), whole_encoder=True)
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
            f"{len(unequal)} have another shape, first {key}: {list(shapes[key])} in the file, not {list(wanted[key])}"
        )
    return ", ".join(parts)
