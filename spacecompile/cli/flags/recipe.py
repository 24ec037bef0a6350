"""`--recipe` of `train`: a named recipe whose values hold wherever no flag says otherwise."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from spacecompile.train.named_recipes import recipe_named
from spacecompile.train.recipe import Recipe

_FIELD_OF_FLAG = {"clip": "clip_norm", "imgsz": "input_size_px", "frame": "frame_size_px"}
"""Where a flag's name is not the field's."""


def field_of_flag(flag: str) -> str:
    """Field of recipe or spec that a flag sets."""
    return _FIELD_OF_FLAG.get(flag, flag)


def fields_of_flags(given: Collection[str]) -> set[str]:
    """Fields of recipe and spec that some flags set."""
    return {field_of_flag(flag) for flag in given}


def with_recipe(
    text: str, *, recipe: Recipe, spec_changes: dict[str, Any], given: Collection[str], whole: Collection[str] = ()
) -> tuple[Recipe, dict[str, Any]]:
    """Lay the flags that the user gave over a named recipe.

    Args:
        text: Name of the recipe, or its file.
        recipe: Made of all flags, given or not.
        spec_changes: Likewise.
        given: Names of the flags that were given.
        whole: Fields of the spec that the recipe decides even where it has the published network's value, for when the
            changes are laid over those of another network.

    Raises:
        UsageError: If there is no such recipe.
    """
    named = recipe_named(text)
    fields = fields_of_flags(given)
    numbers = {name: getattr(recipe, name) for name in recipe.__struct_fields__ if name in fields}
    network = {name: value for name, value in spec_changes.items() if name in fields}
    left_as_they_are = {name: value for name, value in spec_changes.items() if name not in named.spec}
    decided = {name: getattr(named.model_spec(), name) for name in whole} | named.spec_changes()
    return msgspec.structs.replace(named.recipe, **numbers), {**left_as_they_are, **decided, **network}
