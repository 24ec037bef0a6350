"""A whole run on frames that have class and box only, in the SPARK 2022 format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spacecompile.data.labels import SPARK_2022_CLASSES
from spacecompile.data.spark import write_image
from spacecompile.errors import DataError
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.train.recipe import Recipe
from spacecompile.train.run import TrainJob, train

SPEC_CHANGES = {
    "architecture": "Unet",
    "encoder": "tu-test_resnet",
    "encoder_depth": 4,
    "decoder_options": {"decoder_channels": [32, 16, 16, 8]},
    "input_size_px": (64, 64),
    "frame_size_px": (96, 96),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 training and 11 validation frames, every class in turn."""
    root = tmp_path_factory.mktemp("spark2022")
    rng = np.random.default_rng(0)
    for split, frames in (("train", 22), ("val", 11)):
        rows = ["filename,class,bbox"]
        for index in range(frames):
            frame_HWC = rng.integers(0, 30, (96, 96, 3)).astype(np.uint8)
            frame_HWC[20:60, 30:80] = 20 * (index % 11)
            write_image(root / split / f"img{index:06d}.jpg", frame_HWC, jpeg_quality=90)
            rows.append(f'img{index:06d}.jpg,{SPARK_2022_CLASSES[index % 11]},"[20, 30, 60, 80]"')
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def job(data: Path, output: Path, **changes: object) -> TrainJob:
    return TrainJob(
        data=data,
        output=output,
        recipe=Recipe(epochs=1, batch_size=11, augment="heavy"),
        spec_changes={**SPEC_CHANGES, **changes},
        device="cpu",
    )


def test_frames_without_masks_train_and_their_class_map_is_in_the_checkpoint(data: Path, tmp_path: Path) -> None:
    report = train(replace(job(data, tmp_path / "run"), workers=1))
    loaded = load_checkpoint(report.checkpoint)
    assert loaded.spec.classes == SPARK_2022_CLASSES
    assert report.scores.s_seg == 0  # nothing is known about the parts, so nothing is claimed
    (epoch,) = (json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines())
    assert epoch["losses"]["dice"] == pytest.approx(0, abs=1e-6)
    assert epoch["losses"]["bce"] == pytest.approx(0, abs=1e-6)
    assert epoch["losses"]["cls"] > 1


def test_frames_without_masks_teach_the_box_from_the_start(data: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=24, batch_size=11, lr=1e-2, encoder_lr_scale=1.0, augment="none")
    report = train(replace(job(data, tmp_path / "run"), recipe=recipe))
    epochs = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    boxes = [epoch["losses"]["box"] for epoch in epochs]
    assert boxes[-1] < 0.3 * boxes[0]
    assert epochs[0]["scores"]["s_det"] < 0.2
    assert epochs[-1]["scores"]["s_det"] > 0.6
    assert load_checkpoint(report.checkpoint).training["recipe"]["box_loss_weight"] == 1.0


def test_a_weight_of_zero_leaves_the_box_alone(data: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_size=11, box_loss_weight=0.0)
    train(replace(job(data, tmp_path / "run"), recipe=recipe))
    (epoch,) = (json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines())
    assert "box" not in epoch["losses"]


def test_another_order_of_the_classes_is_kept(data: Path, tmp_path: Path) -> None:
    reversed_classes = SPARK_2022_CLASSES[::-1]
    report = train(job(data, tmp_path / "run", classes=reversed_classes))
    assert load_checkpoint(report.checkpoint).spec.classes == reversed_classes


def test_an_order_that_lacks_a_class_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="double_star"):
        train(job(data, tmp_path / "run", classes=SPARK_2022_CLASSES[:-1]))
