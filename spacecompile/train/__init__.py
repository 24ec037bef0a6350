"""Training: labelled frames in, checkpoint out. Needs the `train` extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacecompile._lazy import lazy_attributes

if TYPE_CHECKING:
    from spacecompile.train.box.calibrate import CalibrationJob, CalibrationReport, calibrate
    from spacecompile.train.loop import Callbacks
    from spacecompile.train.named_recipes import NamedRecipe, recipe_named
    from spacecompile.train.recipe import Recipe
    from spacecompile.train.run import TrainJob, TrainReport, train

__all__ = [
    "CalibrationJob",
    "CalibrationReport",
    "Callbacks",
    "NamedRecipe",
    "Recipe",
    "TrainJob",
    "TrainReport",
    "calibrate",
    "recipe_named",
    "train",
]

__getattr__ = lazy_attributes(
    "spacecompile.train",
    {
        "CalibrationJob": "spacecompile.train.box.calibrate",
        "CalibrationReport": "spacecompile.train.box.calibrate",
        "Callbacks": "spacecompile.train.loop",
        "Recipe": "spacecompile.train.recipe",
        "TrainJob": "spacecompile.train.run",
        "calibrate": "spacecompile.train.box.calibrate",
        "NamedRecipe": "spacecompile.train.named_recipes",
        "recipe_named": "spacecompile.train.named_recipes",
        "TrainReport": "spacecompile.train.run",
        "train": "spacecompile.train.run",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
