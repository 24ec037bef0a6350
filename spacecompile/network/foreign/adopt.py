"""Taking over a foreign network: its weights, its own mask geometry, and what had to be assumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from spacecompile.contract import PARTS, ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.network.foreign.identify import identify, load_into
from spacecompile.network.foreign.match import Identified
from spacecompile.network.foreign.weights import ForeignWeights
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.run import run_once

_FLAGS = {
    "mean": "--mean",
    "std": "--std",
    "input_size_px": "--imgsz",
    "frame_size_px": "--frame",
    "classes": "--classes",
}
"""Fields of the spec that no weight tells, with the flags that say them."""


def adopt(weights: ForeignWeights, given: Mapping[str, Any]) -> tuple[MultiTaskNetwork, tuple[str, ...]]:
    """Make our network of an smp state dict.

    Args:
        weights: Weights by smp's names.
        given: Fields of the spec that are known.

    Returns:
        The network in evaluation mode, with its spec, and what no weight tells and nobody gave, one clause each.

    Raises:
        CheckpointError: If it can't be identified, does not run on its input, or its masks don't reach its size.
        UsageError: If what is given can't be.
    """
    identified = identify(weights.tensors, given)
    network = load_into(MultiTaskNetwork(identified.spec, whole_encoder=True), weights.tensors)
    factor = _upsampling(network)
    spec, geometry = _with_geometry(network, factor, given)
    network.spec = spec
    return network, (*_assumed(identified, given), *geometry, *weights.notes)


def _upsampling(network: MultiTaskNetwork) -> int:
    """How many times larger than the part logits the input is."""
    spec = network.spec
    _, part_logits_1Khw = run_once(network, spec.input_size_px)
    grid_px = part_logits_1Khw.shape[2:]
    factors = {
        side // cells if side % cells == 0 else 0 for side, cells in zip(spec.input_size_px, grid_px, strict=True)
    }
    factor = factors.pop()
    if factors or not factor:
        raise CheckpointError(
            f"the part logits of {spec.architecture} with encoder {spec.encoder} are {grid_px[0]}x{grid_px[1]}, no "
            f"whole fraction of the input's {spec.input_size_px[0]}x{spec.input_size_px[1]}. Try an --imgsz that is a "
            "multiple of 64."
        )
    return factor


def _with_geometry(
    network: MultiTaskNetwork, factor: int, given: Mapping[str, Any]
) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec with the way that smp's head takes part logits to the input's size, and what that assumes."""
    spec, assumed = network.spec, []
    if factor != network.head_upsampling:
        if "upsampling" in given.get("decoder_options", {}):
            raise CheckpointError(
                f"upsampling is {network.head_upsampling} in --decoder-options, but the part logits need {factor} to "
                "reach the input's size. Leave it out."
            )
        options = {**spec.decoder_options, "upsampling": factor}
        spec = replace(spec, decoder_options=options)
        assumed.append(f"upsampling {factor} in smp's head, so that masks have the input's size")
    if "mask_upsampling" not in given:
        # Where there is nothing to upsample the two ways are the same, and one step less is quicker.
        spec = replace(spec, mask_upsampling="half_pixel" if factor == 1 else "align_corners")
    return spec, tuple(assumed)


def _assumed(identified: Identified, given: Mapping[str, Any]) -> tuple[str, ...]:
    spec = identified.spec
    facts = [_fact(name, getattr(spec, name), flag) for name, flag in _FLAGS.items() if name not in given]
    options = [_fact(name, value, "--decoder-options") for name, value in identified.options.items()]
    return (*facts, *options, f"masks {' and '.join(PARTS)}, a classifier on averaged features, no activations")


def _fact(name: str, value: object, flag: str) -> str:
    joint = "x" if name.endswith("_size_px") else ","
    words = joint.join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"{name.removesuffix('_size_px')} {words} ({flag})"
