"""Which networks a search of architectures compares."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import segmentation_models_pytorch as smp

from spacecompile.contract import ModelSpec
from spacecompile.errors import UsageError
from spacecompile.train.named_recipes import NamedRecipe, named_recipes
from spacecompile.train.recipe import Recipe

POST_ENCODERS = ("efficientnet-b0", "mit_b0", "mobileone_s1")
POST_DECODERS = ("Unet", "Segformer", "DeepLabV3Plus", "FPN", "PAN", "PSPNet", "Linknet")
"""Of the published search: 3 x 7, of which smp refuses MiT-B0 with Linknet."""

_OPTIONS: dict[str, dict[str, Any]] = {"Segformer": {"decoder_segmentation_channels": 128}}
"""Where the post's final network differs from smp's default. All other decoders are compared as smp makes them."""


def pairs(architectures: Iterable[str], encoders: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Every encoder with every architecture, encoders outermost as in the post."""
    return tuple((architecture, encoder) for encoder in encoders for architecture in tuple(architectures))


def pair_from_text(text: str) -> tuple[str, str]:
    """(architecture, encoder) from `ARCHITECTURE:ENCODER`.

    Raises:
        UsageError: If it is no such pair.
    """
    architecture, separator, encoder = (word.strip() for word in text.partition(":"))
    if not (architecture and separator and encoder):
        raise UsageError(f"{text!r} is no pair. Give ARCHITECTURE:ENCODER, for example Segformer:tu-hgnetv2_b0.")
    return architecture, encoder


def candidates_of(
    chosen: Sequence[tuple[str, str]], *, recipe: Recipe, spec: dict[str, Any], named: Sequence[str] = ()
) -> tuple[NamedRecipe, ...]:
    """One candidate per pair and per named network, all with the same recipe.

    Args:
        chosen: (architecture, encoder).
        recipe: For all of them, also for the named ones: a comparison needs one.
        spec: Further fields for all of them, such as sizes; they win over a named network's.
        named: Names of recipes whose networks take part.

    Raises:
        UsageError: If a name is unknown or taken twice.
    """
    known = named_recipes()
    if unknown := [name for name in named if name not in known]:
        raise UsageError(f"no recipe is named {unknown[0]!r}; known are {', '.join(known)}.")
    candidates = [_of_pair(*pair, recipe=recipe, spec=spec) for pair in chosen]
    candidates += [
        NamedRecipe(name=name, note=known[name].note, spec={**known[name].spec, **spec}, recipe=recipe)
        for name in named
    ]
    names = [candidate.name for candidate in candidates]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{', '.join(twice)} would be trained twice. Name each network once.")
    if not candidates:
        raise UsageError("there is no network to compare. Name encoders and decoders, pairs or recipes.")
    return tuple(candidates)


def _of_pair(architecture: str, encoder: str, *, recipe: Recipe, spec: dict[str, Any]) -> NamedRecipe:
    network = {
        "architecture": architecture,
        "encoder": encoder,
        "encoder_depth": default_depth(architecture),
        "decoder_options": _OPTIONS.get(architecture, {}),
    }
    return NamedRecipe(name=f"{architecture}-{encoder}", spec={**network, **spec}, recipe=recipe)


def default_depth(architecture: str) -> int:
    """Encoder stages that smp gives an architecture: PSPNet has three; the spec's default for a class it lacks."""
    depth = default_of(architecture, "encoder_depth")
    return depth if isinstance(depth, int) else ModelSpec().encoder_depth


def default_of(architecture: str, option: str) -> Any:
    """Value that smp gives an architecture's option; None for one that it does not know."""
    kind = getattr(smp, architecture, None)
    known = inspect.signature(kind).parameters if isinstance(kind, type) else {}
    return known[option].default if option in known else None
