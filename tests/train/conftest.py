"""Tiny labelled frames in the SPARK format: a bright bus with one panel, the class told by the bus's colour."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from spacecompile.contract import SPARK_CLASSES, ModelSpec
from spacecompile.data import labels, spark
from spacecompile.network.checkpoint import save_checkpoint
from spacecompile.network.model import MultiTaskNetwork


def write_tiny_split(root: Path, split: str, *, frames: int, size_px: int, seed: int) -> None:
    """Write `frames` square frames, classes in turn."""
    rng = np.random.default_rng(seed)
    labelled = []
    for index in range(frames):
        class_index = index % len(SPARK_CLASSES)
        class_name = SPARK_CLASSES[class_index]
        frame_HWC = rng.integers(0, 20, (size_px, size_px, 3)).astype(np.uint8)
        parts_HW = np.zeros((size_px, size_px), np.uint8)
        side = int(rng.integers(size_px // 6, size_px // 3))
        x, y = (int(value) for value in rng.integers(0, size_px - 2 * side, 2))
        parts_HW[y : y + side, x : x + side] = spark.BODY_BIT
        parts_HW[y + side // 4 : y + side // 2, x + side : x + 2 * side] = spark.PANEL_BIT
        hue = np.array([class_index % 3, class_index // 3, 2]) * 40 + 60
        frame_HWC[parts_HW == spark.BODY_BIT] = hue
        frame_HWC[parts_HW == spark.PANEL_BIT] = (40, 60, 200)
        name = f"{split}_{index:05d}"
        frame = labels.LabelledFrame(
            image_path=labels.image_path(root, class_name, split, f"{name}_img.jpg"),
            mask_path=labels.mask_path(root, class_name, split, f"{name}_layer.jpg"),
            class_name=class_name,
            box_xyxy=(x, y, x + 2 * side, y + side),
        )
        spark.write_image(frame.image_path, frame_HWC, jpeg_quality=95)
        spark.write_mask(frame.mask_path, parts_HW)
        labelled.append(frame)
    spark.write_split_csv(root, split, labelled)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tensors this small are slower on several threads, the more so when other tests run beside them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training and 10 validation frames of 96x96."""
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_split(root, "train", frames=40, size_px=96, seed=1)
    write_tiny_split(root, "val", frames=10, size_px=96, seed=2)
    return root


@pytest.fixture(scope="session")
def data_with_broken_files(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same frames several times over, so that the one broken frame in each split is less than one in a hundred."""
    root = tmp_path_factory.mktemp("broken") / "data"
    shutil.copytree(tiny_data, root)
    for split, copies in (("train", 3), ("val", 11)):
        header, first, *others = (root / f"{split}.csv").read_text().splitlines()
        broken = first.replace(f"{split}_00000_img", f"{split}_broken_img")
        (root / f"{split}.csv").write_text("\n".join([header, broken, *[first, *others] * copies]) + "\n")
        (frame,) = root.rglob(f"{split}_00000_img.jpg")
        frame.with_name(f"{split}_broken_img.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="session")
def still_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small quick network with the classes of `tiny_data`, 64x64 input, in which nothing is drawn at random."""
    spec = ModelSpec(
        architecture="Unet",
        encoder="tu-test_resnet",
        encoder_depth=4,
        decoder_options={"decoder_channels": [32, 16, 16, 8]},
        dropout=0.0,
        input_size_px=(64, 64),
        frame_size_px=(96, 96),
    )
    path = tmp_path_factory.mktemp("checkpoints") / "still.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(path, MultiTaskNetwork(spec).eval(), training={})
    return path
