"""Tiny candidates on tiny labelled frames."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from spacecompile.contract import SPARK_CLASSES, Cost
from spacecompile.data import labels, spark
from spacecompile.search.results import Costs
from spacecompile.train.named_recipes import NamedRecipe
from spacecompile.train.recipe import Recipe

COST = Cost(params=1_000_000, macs_fvcore=1_000_000_000, macs_torch=1_000_000_000)

TINY = {
    "architecture": "Unet",
    "encoder": "tu-test_resnet",
    "encoder_depth": 4,
    "decoder_options": {"decoder_channels": [32, 16, 16, 8]},
    "input_size_px": [64, 64],
    "frame_size_px": [64, 64],
}


class MakeCandidate(Protocol):
    def __call__(self, name: str, *, lr: float = 1e-3, epochs: int = 2, **changes: object) -> NamedRecipe: ...


@pytest.fixture(scope="session")
def tiny() -> MakeCandidate:
    """Makes candidates that train an epoch in a second."""

    def make(name: str, *, lr: float = 1e-3, epochs: int = 2, **changes: object) -> NamedRecipe:
        recipe = Recipe(epochs=epochs, batch_size=8, lr=lr, encoder_lr_scale=1.0, amp=False)
        return NamedRecipe(name=name, spec={**TINY, **changes}, recipe=recipe)

    return make


@pytest.fixture(scope="session")
def costs() -> Costs:
    """Of a network with 1 GMAC and 1 M parameters."""
    return Costs(source=COST, rewritten=COST, size_px=(64, 64))


@pytest.fixture(scope="session")
def search_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 8 validation frames of 64x64: a grey bus with a blue panel."""
    root = tmp_path_factory.mktemp("search-data")
    rng = np.random.default_rng(3)
    for split, count in (("train", 24), ("val", 8)):
        labelled = []
        for index in range(count):
            parts_HW = np.zeros((64, 64), np.uint8)
            x, y = (int(value) for value in rng.integers(2, 30, 2))
            parts_HW[y : y + 20, x : x + 14] = spark.BODY_BIT
            parts_HW[y + 4 : y + 14, x + 14 : x + 28] = spark.PANEL_BIT
            frame_HWC = rng.integers(0, 20, (64, 64, 3)).astype(np.uint8)
            frame_HWC[parts_HW == spark.BODY_BIT] = 150
            frame_HWC[parts_HW == spark.PANEL_BIT] = (30, 50, 220)
            class_name = SPARK_CLASSES[index % 10]
            frame = labels.LabelledFrame(
                image_path=labels.image_path(root, class_name, split, f"{split}_{index}_img.jpg"),
                mask_path=labels.mask_path(root, class_name, split, f"{split}_{index}_layer.jpg"),
                class_name=class_name,
                box_xyxy=(x, y, x + 28, y + 20),
            )
            spark.write_image(frame.image_path, frame_HWC, jpeg_quality=95)
            spark.write_mask(frame.mask_path, parts_HW)
            labelled.append(frame)
        spark.write_split_csv(root, split, labelled)
    return root
