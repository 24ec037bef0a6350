"""Frames decoded once: the same training batches, half the size for large frames, nothing stale."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spacecompile.cli.main import main
from spacecompile.contract import SPARK_CLASSES
from spacecompile.data.labels import LabelledFrame, read_split
from spacecompile.errors import OutputError
from spacecompile.train.frames.dataset import TrainingFrames
from spacecompile.train.frames.decode import decoded_from_files, views_of
from spacecompile.train.frames.store import DecodedPictures, FrameStore, frame_store

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
    store = frame_store(read_split(data, "train"), data, INPUT_SIZE_PX)
    for _ in ("kept", "read"):
        for seen, expected in zip(batches_of(data, store, processes=processes), plain, strict=True):
            assert torch.equal(seen, expected)


def with_other_pixels(frames: Sequence[LabelledFrame]) -> None:
    """Files that look the same from outside: names, sizes and times."""
    for frame in frames:
        status = frame.image_path.stat()
        frame.image_path.write_bytes(b"x" * status.st_size)
        os.utime(frame.image_path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_what_is_kept_is_read_and_not_decoded_again(data: Path) -> None:
    frames = read_split(data, "train")
    store = frame_store(frames, data, INPUT_SIZE_PX)
    first = batches_of(data, store)
    with_other_pixels(frames)
    assert all(torch.equal(*pair) for pair in zip(batches_of(data, store), first, strict=True))


def test_pixels_that_never_reached_the_disk_are_decoded_again(data: Path) -> None:
    store = frame_store(read_split(data, "train"), data, INPUT_SIZE_PX)
    first = batches_of(data, store)
    with store.path.open("r+b") as stream:  # a page of zeros in the first frame, its checksum still there
        stream.write(b"\0" * 4096)
    assert FrameStore(store.path, store.num_frames, store.size_px, store.scale).read(0) is None
    assert all(torch.equal(*pair) for pair in zip(batches_of(data, store), first, strict=True))


def test_a_deleted_file_is_no_store_of_black_frames(data: Path) -> None:
    frames = read_split(data, "train")
    batches_of(data, frame_store(frames, data, INPUT_SIZE_PX))
    frame_store(frames, data, INPUT_SIZE_PX).path.unlink()
    assert frame_store(frames, data, INPUT_SIZE_PX).read(0) is None


def test_the_way_to_the_folder_makes_no_other_store(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    here = Path(data.name)
    paths = {frame_store(read_split(root, "train"), root, INPUT_SIZE_PX).path.resolve() for root in (data, here)}
    assert len(paths) == 1


def test_another_selection_is_told_of_those_that_are_there(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = read_split(data, "train")
    frame_store(frames, data, INPUT_SIZE_PX)
    assert not caplog.text
    frame_store(frames[:8], data, INPUT_SIZE_PX)
    assert "holds frames of 1 other selections" in caplog.text


def test_a_damaged_first_frame_does_not_matter(data: Path) -> None:
    frames = read_split(data, "train")
    frames[0].image_path.write_bytes(b"no image")
    assert frame_store(frames, data, INPUT_SIZE_PX).size_px == (96, 96)


def test_changed_files_get_a_new_store(data: Path) -> None:
    frames = read_split(data, "train")
    before = frame_store(frames, data, INPUT_SIZE_PX).path
    assert frame_store(frames, data, INPUT_SIZE_PX).path == before
    content = frames[3].image_path.read_bytes()
    frames[3].image_path.write_bytes(content + b"\0")
    assert frame_store(frames, data, INPUT_SIZE_PX).path != before


def test_frames_are_kept_at_half_their_size_where_that_fills_the_input(data: Path) -> None:
    frames = read_split(data, "train")[:1]
    rng = np.random.default_rng(0)
    image_HWC = rng.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    Image.fromarray(image_HWC).save(frames[0].image_path)
    body = Image.fromarray((rng.random((1024, 1024)) < 0.5).astype(np.uint8) * 255)
    assert frame_store(frames, data, (768, 768)).scale == 1
    store = frame_store(frames, data, (512, 512))
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


@pytest.mark.parametrize("side_px", [32, 95, 97])
def test_a_frame_of_another_size_is_left_out(data: Path, side_px: int) -> None:
    store = frame_store(read_split(data, "train"), data, (48, 48))
    assert store.scale == 2
    picture = Image.new("L", (side_px, side_px))
    store.keep(0, DecodedPictures(image=Image.new("RGB", picture.size), coverages=(picture, picture)))
    assert store.read(0) is None


def test_windows_are_those_of_the_camera_frame(data: Path) -> None:
    """A craft view is cut where it would be cut without a store, from pixels of half the size."""
    frame = read_split(data, "train")[0]
    decoded = decoded_from_files(frame)
    halved = DecodedPictures(
        image=decoded.image.reduce(2), coverages=tuple(part.reduce(2) for part in decoded.coverages), scale=2
    )
    plain, half = (views_of(pictures, frame, (48, 48), growths=(None, 1.0)) for pictures in (decoded, halved))
    torch.testing.assert_close(half.boxes_V4, plain.boxes_V4, rtol=0, atol=1.1)


def test_it_travels_as_a_path(data: Path) -> None:
    store = frame_store(read_split(data, "train"), data, INPUT_SIZE_PX)
    batches_of(data, store)
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    read, again = store.read(0), pickle.loads(sent).read(0)
    assert np.array_equal(np.asarray(read.image), np.asarray(again.image))


def test_a_full_disk_is_said_before_the_work(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(data)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"take 0\.0 GiB.*--cache none"):
        frame_store(read_split(data, "train"), data, INPUT_SIZE_PX)


def test_a_folder_that_can_not_be_written_is_one_sentence(data: Path) -> None:
    (data / ".spacecompile").write_text("a file in the way")
    with pytest.raises(OutputError, match="--cache none"):
        frame_store(read_split(data, "train"), data, INPUT_SIZE_PX)


def test_a_second_run_reads_what_the_first_one_kept(data: Path, still_checkpoint: Path, tmp_path: Path) -> None:
    given = ("--epochs", "1", "--batch-size", "8", "--cache", "disk", "--device", "cpu")
    arguments = ["train", "--data", str(data), "--init", str(still_checkpoint), *given]
    assert main([*arguments, "-o", str(tmp_path / "first")]) == 0
    (store,) = (data / ".spacecompile").iterdir()
    before = store.read_bytes()
    assert main([*arguments, "-o", str(tmp_path / "second")]) == 0
    assert [*(data / ".spacecompile").iterdir()] == [store]
    assert store.read_bytes() == before
    losses = [json.loads((tmp_path / run / "history.jsonl").read_text())["losses"] for run in ("first", "second")]
    assert losses[0] == losses[1]
