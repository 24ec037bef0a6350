"""The recipe refuses what makes no sense and travels as JSON."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from spacecompile.errors import UsageError
from spacecompile.train.recipe import Recipe


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        pytest.param({"epochs": 0}, "--epochs", id="no epoch"),
        pytest.param({"batch_size": 0}, "--batch-size", id="empty batches"),
        pytest.param({"lr": -1.0}, "--lr", id="negative learning rate"),
        pytest.param({"lr": float("nan")}, "--lr", id="learning rate that is no number"),
        pytest.param({"lr": float("inf")}, "--lr", id="endless learning rate"),
        pytest.param({"box_loss_weight": -1.0}, "--box-loss-weight", id="negative weight of the box"),
        pytest.param({"bce_weight": float("inf")}, "--bce-weight", id="endless weight"),
        pytest.param({"clip_norm": 0.0}, "--clip", id="every gradient clipped away"),
        pytest.param({"seed": -1}, "--seed", id="negative seed"),
        pytest.param({"ema": 1.0}, "--ema", id="averaged weights that never move"),
        pytest.param({"label_smoothing": 1.0}, "--label-smoothing", id="no label left"),
        pytest.param({"lovasz_weight": -1.0}, "--lovasz-weight", id="negative weight"),
        pytest.param({"teacher_weight": float("nan")}, "--teacher-weight", id="weight that is no number"),
        pytest.param({"time_limit_min": -1.0}, "--time-limit-min", id="negative time"),
    ],
)
def test_senseless_values_are_refused_with_their_flag(change: dict[str, Any], flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        Recipe(**change)


def test_defaults_are_the_published_recipe() -> None:
    recipe = Recipe()
    assert (recipe.lr, recipe.encoder_lr_scale, recipe.weight_decay) == (5e-3, 0.1, 1e-4)
    assert (recipe.warmup_epochs, recipe.clip_norm, recipe.augment) == (1.0, 1.0, "light")


def test_a_recipe_survives_json() -> None:
    recipe = Recipe(epochs=3, augment="medium", ema=0.99)
    assert msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe) == recipe
