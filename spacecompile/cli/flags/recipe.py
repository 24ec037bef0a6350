"""Which field of recipe or network each flag of `train` sets, and `--recipe`, whose values hold where no flag does."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from spacecompile.contract import ModelSpec
from spacecompile.train.named_recipes import recipe_named
from spacecompile.train.recipe import Recipe

_FIELD_OF_FLAG = {"clip": "clip_norm", "imgsz": "input_size_px", "frame": "frame_size_px"}
"""Fields by flag where the two have different names."""


def fields_of_flags(flags: Collection[str]) -> set[str]:
    """Fields of recipe and spec that some flags set."""
    return {_FIELD_OF_FLAG.get(flag, flag) for flag in flags}


def fields_by_flag(record: type[Recipe | ModelSpec], flags: Collection[str]) -> dict[str, str]:
    """Fields of one record by the flags that set them; flags that set none are left out."""
    fields = {flag: _FIELD_OF_FLAG.get(flag, flag) for flag in flags}
    return {flag: field for flag, field in fields.items() if field in record.__struct_fields__}


def with_recipe(
    text: str, *, recipe: Recipe, spec_changes: dict[str, Any], given: Collection[str], whole: Collection[str] = ()
) -> tuple[Recipe, dict[str, Any]]:
    """Lay the flags that the user gave over a named recipe.

    Args:
        text: Name of the recipe, or its file.
        recipe: Recipe made of all flags, given or not.
        spec_changes: Fields of the spec made of all flags, given or not.
        given: Names of the flags that were given.
        whole: Fields of the spec that the recipe decides even where it has the published network's value, for when the
            changes are laid over those of another network.

    Returns:
        The recipe, and the fields of the spec to change.

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
