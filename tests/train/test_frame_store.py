"""Frames decoded once: the same training batches, half the size for large frames, nothing stale."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spacecompile.cli.main import main
from spacecompile.contract import SPARK_CLASSES
from spacecompile.data.labels import read_split
from spacecompile.errors import OutputError
from spacecompile.train.dataset import TrainingFrames
from spacecompile.train.frame_store import DecodedPictures, FrameStore, frame_store

INPUT_SIZE_PX = (64, 64)


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


def batches_of(data: Path, store: FrameStore | None, *, processes: int = 0) -> list[torch.Tensor]:
    frames = TrainingFrames(
        read_split(data, "train"),
        classes=SPARK_CLASSES,
        input_size_px=INPUT_SIZE_PX,
        craft_views=True,
        cache="none",
        processes=processes,
        store=store,
    )
    generator = torch.Generator().manual_seed(0)
    batches = frames.batches(torch.arange(len(frames)), 8, craft_share=0.5, generator=generator)
    return [torch.cat([batch.pixels_NCHW.flatten().float(), batch.boxes_N4.flatten()]) for batch in batches]


@pytest.mark.parametrize("processes", [0, 1])
def test_batches_are_those_of_the_files(data: Path, processes: int) -> None:
    plain = batches_of(data, None)
    store = frame_store(read_split(data, "train"), data)
    for _ in ("kept", "read"):
        for seen, expected in zip(batches_of(data, store, processes=processes), plain, strict=True):
            assert torch.equal(seen, expected)


def test_what_is_kept_is_read_and_not_decoded_again(data: Path) -> None:
    frames = read_split(data, "train")
    store = frame_store(frames, data)
    first = batches_of(data, store)
    for frame in frames:
        frame.image_path.write_bytes(b"broken since")
    assert all(torch.equal(*pair) for pair in zip(batches_of(data, store), first, strict=True))


def test_changed_files_get_a_new_store(data: Path) -> None:
    frames = read_split(data, "train")
    before = frame_store(frames, data).path
    assert frame_store(frames, data).path == before
    content = frames[3].image_path.read_bytes()
    frames[3].image_path.write_bytes(content + b"\0")
    assert frame_store(frames, data).path != before


def test_large_frames_are_kept_at_half_their_size(data: Path) -> None:
    frames = read_split(data, "train")[:1]
    rng = np.random.default_rng(0)
    image_HWC = rng.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    Image.fromarray(image_HWC).save(frames[0].image_path)
    body = Image.fromarray((rng.random((1024, 1024)) < 0.5).astype(np.uint8) * 255)
    store = frame_store(frames, data)
    assert store.read(0) is None
    store.keep(0, DecodedPictures(image=Image.fromarray(image_HWC), coverages=(body, Image.new("L", body.size))))
    read = store.read(0)
    assert read is not None
    assert (read.scale, read.image.size) == (2, (512, 512))
    expected_HWC = image_HWC.reshape(512, 2, 512, 2, 3).mean((1, 3))
    assert np.abs(np.asarray(read.image) - expected_HWC).max() <= 0.5
    covered_HW = (np.asarray(body) / 255).reshape(512, 2, 512, 2).mean((1, 3))
    # Quarters in steps of a fifteenth.
    assert np.abs(np.asarray(read.coverages[0]) / 255 - covered_HW).max() <= 0.5 / 15 + 1 / 255
    assert not np.asarray(read.coverages[1]).any()


def test_a_frame_of_another_size_is_left_out(data: Path) -> None:
    store = frame_store(read_split(data, "train"), data)
    picture = Image.new("L", (32, 32))
    store.keep(0, DecodedPictures(image=Image.new("RGB", (32, 32)), coverages=(picture, picture)))
    assert store.read(0) is None


def test_it_travels_as_a_path(data: Path) -> None:
    store = frame_store(read_split(data, "train"), data)
    batches_of(data, store)
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    read, again = store.read(0), pickle.loads(sent).read(0)
    assert np.array_equal(np.asarray(read.image), np.asarray(again.image))


def test_a_full_disk_is_said_before_the_work(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(data)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"take 0\.0 GiB.*--cache none"):
        frame_store(read_split(data, "train"), data)


def test_a_folder_that_can_not_be_written_is_one_sentence(data: Path) -> None:
    (data / ".spacecompile").write_text("a file in the way")
    with pytest.raises(OutputError, match="--cache none"):
        frame_store(read_split(data, "train"), data)


def test_a_run_keeps_its_frames_beside_the_data(data: Path, still_checkpoint: Path, tmp_path: Path) -> None:
    given = ("--epochs", "1", "--batch-size", "8", "--cache", "disk", "--device", "cpu")
    arguments = ["train", "--data", str(data), "--init", str(still_checkpoint), *given]
    assert main([*arguments, "-o", str(tmp_path / "first")]) == 0
    files = {path.name: path.stat().st_mtime_ns for path in (data / ".spacecompile").iterdir()}
    assert sorted(Path(name).suffix for name in files) == [".frames", ".kept"]
    assert main([*arguments, "-o", str(tmp_path / "second")]) == 0
    assert {path.name for path in (data / ".spacecompile").iterdir()} == set(files)
