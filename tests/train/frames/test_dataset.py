"""Frames as batches: what is decoded, what is kept, what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import spacecompile
from spacecompile.contract import SPARK_CLASSES
from spacecompile.data.labels import LabelledFrame, read_split
from spacecompile.data.spark import parts_HW_from_mask, read_frame_HWC
from spacecompile.errors import DataError
from spacecompile.network.preprocess import input_from_frame
from spacecompile.train.frames.dataset import (
    Batch,
    Cache,
    TrainingFrames,
    ValidationFrames,
    keeps_in_memory,
    silenced,
)
from spacecompile.train.frames.decode import craft_window, views_from_files
from spacecompile.train.losses import multi_task_losses
from spacecompile.train.recipe import Recipe

INPUT_SIZE_PX = (64, 64)


def training_frames(frames: list[LabelledFrame], cache: Cache = "auto", processes: int = 0) -> TrainingFrames:
    return TrainingFrames(frames, classes=SPARK_CLASSES, input_size_px=INPUT_SIZE_PX, cache=cache, processes=processes)


def with_one_broken(frames: list[LabelledFrame], broken: Path, *, copies: int) -> list[LabelledFrame]:
    """Many frames, the second of which has a file that is no image."""
    broken.write_bytes(b"no image")
    many = frames * copies
    many[1] = replace(many[1], image_path=broken)
    return many


@pytest.mark.parametrize("size_px", [(64, 96), (48, 48), (96, 96), (128, 96)], ids=["part", "half", "same", "larger"])
def test_pixels_are_the_reduced_frame_and_the_covered_share_of_each_pixel(
    tiny_data: Path, size_px: tuple[int, int]
) -> None:
    frame = read_split(tiny_data, "train")[3]
    pixels_CHW = views_from_files(frame, size_px, craft_growth=None).pixels_VCHW[0]
    frame_NCHW = torch.tensor(read_frame_HWC(frame.image_path)).permute(2, 0, 1)[None].float()
    parts_HW = parts_HW_from_mask(frame.mask_path)
    panel_NCHW = torch.tensor(parts_HW // 2 * 255.0)[None, None].float()
    assert pixels_CHW.dtype == torch.uint8
    assert pixels_CHW.shape == (5, *size_px)
    assert (pixels_CHW[:3] - input_from_frame(frame_NCHW, size_px)[0]).abs().max() <= 0.5
    assert (pixels_CHW[4] - input_from_frame(panel_NCHW, size_px)[0, 0]).abs().max() <= 0.5


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_every_epoch_gives_the_same_batches_whether_kept_or_not(tiny_data: Path, cache: Cache) -> None:
    frames = read_split(tiny_data, "train")[:10]
    store = training_frames(frames, cache)
    order_N = torch.tensor([4, 1, 9, 0, 3, 2, 8])
    for _ in range(2):
        batches = list(store.batches(order_N, 3))
        assert len(batches) == 2
        assert [SPARK_CLASSES[index] for index in batches[0].class_N] == [
            frames[index].class_name for index in (4, 1, 9)
        ]
        assert torch.equal(
            batches[1].pixels_NCHW[2], views_from_files(frames[2], INPUT_SIZE_PX, craft_growth=None).pixels_VCHW[0]
        )


def test_frames_in_memory_are_not_read_again(tmp_path: Path, tiny_data: Path) -> None:
    frame = read_split(tiny_data, "train")[0]
    copy = LabelledFrame(
        image_path=tmp_path / "frame.jpg",
        mask_path=frame.mask_path,
        class_name=frame.class_name,
        box_xyxy=frame.box_xyxy,
    )
    copy.image_path.write_bytes(frame.image_path.read_bytes())
    store = training_frames([copy], "ram")
    (first,) = store.batches(torch.tensor([0]), 1)
    copy.image_path.unlink()
    (second,) = store.batches(torch.tensor([0]), 1)
    assert torch.equal(first.pixels_NCHW, second.pixels_NCHW)


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_validation_frames_keep_their_order_and_full_size(tiny_data: Path, cache: Cache) -> None:
    frames = read_split(tiny_data, "val")
    store = ValidationFrames(
        frames, classes=SPARK_CLASSES, input_size_px=INPUT_SIZE_PX, frame_size_px=(96, 96), cache=cache
    )
    for _ in range(2):
        batches = list(store.batches(4))
        assert [len(batch) for batch in batches] == [4, 4, 2]
        for frame, truth in zip(frames, [truth for batch in batches for truth in batch], strict=True):
            assert SPARK_CLASSES[truth.class_index] == frame.class_name
            assert truth.box_xyxy == frame.box_xyxy
            assert np.array_equal(truth.parts_HW, parts_HW_from_mask(frame.mask_path))
            assert truth.input_CHW.shape == (3, *INPUT_SIZE_PX)


def test_a_class_that_the_network_lacks_is_refused_by_name(tiny_data: Path) -> None:
    with pytest.raises(DataError, match="XMM Newton") as caught:
        TrainingFrames(read_split(tiny_data, "train"), classes=SPARK_CLASSES[:9], input_size_px=INPUT_SIZE_PX)
    assert "--classes" not in str(caught.value)  # which `calibrate`, `search` and a resumed run do not have


def test_a_damaged_file_is_named_when_its_batch_comes(tmp_path: Path, tiny_data: Path) -> None:
    frame = read_split(tiny_data, "train")[0]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(frame.image_path.read_bytes()[:200])
    damaged = LabelledFrame(
        image_path=broken, mask_path=frame.mask_path, class_name=frame.class_name, box_xyxy=frame.box_xyxy
    )
    with pytest.raises(DataError, match=r"none of 1 frames can be used.*broken\.jpg"):
        list(training_frames([damaged]).batches(torch.tensor([0]), 1))


def test_a_mask_of_another_size_is_refused(tmp_path: Path, tiny_data: Path) -> None:
    frame = read_split(tiny_data, "train")[0]
    small = tmp_path / "small.jpg"
    Image.new("RGB", (50, 50)).save(small)
    mismatched = LabelledFrame(
        image_path=frame.image_path, mask_path=small, class_name=frame.class_name, box_xyxy=frame.box_xyxy
    )
    with pytest.raises(DataError, match=r"small\.jpg is \(50, 50\)"):
        views_from_files(mismatched, INPUT_SIZE_PX, craft_growth=None)


@pytest.mark.parametrize(
    ("cache", "needed_bytes", "kept"),
    [("auto", 1, True), ("auto", 1 << 60, False), ("ram", 1, True), ("none", 1, False)],
)
def test_auto_keeps_frames_only_if_they_fit(cache: Cache, needed_bytes: int, kept: bool) -> None:
    assert keeps_in_memory(cache, needed_bytes) is kept


def test_ram_that_does_not_suffice_is_refused() -> None:
    with pytest.raises(DataError, match="--cache none"):
        keeps_in_memory("ram", 1 << 60)


@pytest.mark.parametrize(
    ("box", "growth", "rows", "columns"),
    [
        pytest.param((400, 300, 600, 400), 1.5, (200, 500), (350, 650), id="square around the longer side"),
        pytest.param((500, 500, 510, 510), 1.5, (473, 537), (473, 537), id="never below half the input"),
        pytest.param((0, 0, 200, 200), 2.0, (0, 400), (0, 400), id="moved into the frame"),
        pytest.param((900, 900, 1000, 1000), 2.0, (800, 1000), (800, 1000), id="moved in at the far corner"),
        pytest.param((0, 100, 1000, 900), 1.3, (0, 1000), (0, 1000), id="never beyond the frame"),
    ],
)
def test_a_craft_view_is_a_window_around_the_craft(
    box: tuple[int, int, int, int], growth: float, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    window = craft_window(box, (1000, 1000), (128, 128), growth)
    assert window == (slice(*rows), slice(*columns))


def test_craft_views_show_more_of_the_craft_and_are_chosen_by_their_share(tiny_data: Path) -> None:
    frames = read_split(tiny_data, "train")[:8]
    store = TrainingFrames(frames, classes=SPARK_CLASSES, input_size_px=INPUT_SIZE_PX, craft_views=True)
    plain = training_frames(frames)
    order_N = torch.arange(8)
    (whole,) = store.batches(order_N, 8, craft_share=0.0)
    (craft,) = store.batches(order_N, 8, craft_share=1.0)
    (ignored,) = plain.batches(order_N, 8, craft_share=1.0)
    assert torch.equal(whole.pixels_NCHW, ignored.pixels_NCHW)
    covered_whole_N, covered_craft_N = (batch.pixels_NCHW[:, 3:].float().sum((1, 2, 3)) for batch in (whole, craft))
    assert (covered_craft_N >= covered_whole_N).all()
    assert covered_craft_N.sum() > 1.2 * covered_whole_N.sum()
    assert torch.equal(craft.class_N, whole.class_N)


def test_processes_give_the_batches_that_threads_give(tiny_data: Path) -> None:
    frames = read_split(tiny_data, "train")[:6]
    threads, processes = training_frames(frames, "none"), training_frames(frames, "none", processes=1)
    for order in ([4, 1, 0, 3], [2, 5, 3, 1]):  # the workers live on from one epoch to the next
        pairs = zip(threads.batches(torch.tensor(order), 2), processes.batches(torch.tensor(order), 2), strict=True)
        for expected, batch in pairs:
            assert torch.equal(batch.pixels_NCHW, expected.pixels_NCHW)
            assert torch.equal(batch.boxes_N4, expected.boxes_N4)
            assert torch.equal(batch.class_N, expected.class_N)


KILLS_A_WORKER = """
import multiprocessing, sys, threading, time
from pathlib import Path

import torch

from spacecompile.contract import SPARK_CLASSES
from spacecompile.data.labels import read_split
from spacecompile.errors import UsageError
from spacecompile.train.frames.dataset import TrainingFrames
from spacecompile.train.frames.loader import worker_deaths_told
from spacecompile.train.loop import Callbacks
from spacecompile.train.recipe import Recipe
from spacecompile.train.run import TrainJob, train
from spacecompile.train.read_rate import decode_rate

data, output = Path(sys.argv[1]), Path(sys.argv[2])
shape = dict(classes=SPARK_CLASSES, input_size_px=(64, 64))

def kill(*_):
    for worker in multiprocessing.active_children():
        worker.kill()
    time.sleep(1)  # the signal comes meanwhile

def while_batches_come():
    store = TrainingFrames(read_split(data, "train")[:6], **shape, cache="none", processes=1)
    batches = store.batches(torch.arange(6).repeat(50_000), 2)
    next(batches)
    threading.Timer(0.5, kill).start()
    with worker_deaths_told():
        for _ in batches:
            pass

def while_the_rate_is_measured():
    decode_rate(read_split(data, "train")[:6], **shape, batch_size=2, processes=1, duration_s=60, progress=kill)

def while_the_network_trains():
    job = TrainJob(
        data=data,
        output=output,
        recipe=Recipe(epochs=2, batch_size=4),
        spec_changes={"input_size_px": (64, 64), "frame_size_px": (96, 96)},
        device="cpu",
        workers=1,
        cache="none",
    )
    train(job, callbacks=Callbacks(on_step=kill))

if __name__ == "__main__":
    try:
        globals()[sys.argv[3]]()
    except UsageError as error:
        print(error)
"""


@pytest.mark.parametrize("moment", ["while_batches_come", "while_the_rate_is_measured", "while_the_network_trains"])
def test_a_worker_that_is_killed_ends_the_work_with_a_sentence(tiny_data: Path, tmp_path: Path, moment: str) -> None:
    # In a process of its own: torch raises from a signal handler, wherever the main thread happens to be.
    script = tmp_path / "script.py"
    script.write_text(KILLS_A_WORKER)
    done = subprocess.run(
        [sys.executable, script, tiny_data, tmp_path / "run", moment],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(spacecompile.__file__).parents[1])},
    )
    assert "--workers 0" in done.stdout, done.stderr


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_one_broken_file_in_more_than_a_hundred_is_counted_and_the_next_frame_shown(
    tmp_path: Path, tiny_data: Path, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    frames = with_one_broken(read_split(tiny_data, "train")[:8], tmp_path / "broken.jpg", copies=13)
    store = training_frames(frames, cache)
    for _ in range(2):
        (batch,) = store.batches(torch.tensor([1, 0]), 2)
        (expected,) = training_frames(frames).batches(torch.tensor([2, 0]), 2)
        assert torch.equal(batch.pixels_NCHW, expected.pixels_NCHW)
        assert torch.equal(batch.class_N, expected.class_N)
        assert torch.equal(batch.boxes_N4, expected.boxes_N4)
    assert [entry.path.name for entry in store.broken] == ["broken.jpg"]
    assert caplog.text.count("broken.jpg is not an image") == 1


def test_validation_leaves_a_broken_file_out_and_refuses_one_in_a_hundred(tmp_path: Path, tiny_data: Path) -> None:
    def scored(copies: int) -> list[int]:
        frames = with_one_broken(read_split(tiny_data, "val"), tmp_path / "broken.jpg", copies=copies)
        store = ValidationFrames(
            frames, classes=SPARK_CLASSES, input_size_px=INPUT_SIZE_PX, frame_size_px=(96, 96), cache="none"
        )
        return [len(batch) for batch in store.batches(10)]

    assert scored(11) == [9] + [10] * 10
    with pytest.raises(DataError, match=r"1 of 100 frames of the frames to score are broken"):
        scored(10)


def test_a_frame_may_come_twice_in_one_batch(tiny_data: Path) -> None:
    store = training_frames(read_split(tiny_data, "train")[:3], "none")
    (batch,) = store.batches(torch.tensor([2, 0, 2]), 3)
    assert torch.equal(batch.pixels_NCHW[0], batch.pixels_NCHW[2])
    assert batch.class_N.tolist() == [2, 0, 2]


def test_boxes_follow_the_frame_into_its_views(tiny_data: Path) -> None:
    """The body is the left half of the labelled box and the panel ends at its right edge, so coverage shows both."""
    frame = read_split(tiny_data, "train")[5]
    views = views_from_files(frame, (96, 96), craft_growth=1.5)
    for pixels_CHW, box_xyxy in zip(views.pixels_VCHW, views.boxes_V4.tolist(), strict=True):
        covered_HW = pixels_CHW[3:].amax(0) > 127
        rows, columns = covered_HW.any(1).nonzero().flatten(), covered_HW.any(0).nonzero().flatten()
        tight = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        assert box_xyxy == pytest.approx(tight, abs=1.5)
    assert views.boxes_V4[0].tolist() == pytest.approx(frame.box_xyxy)


def test_frames_without_masks_teach_the_class_and_nothing_about_parts(tiny_data: Path) -> None:
    frames = read_split(tiny_data, "train")[:4]
    frames[2] = replace(frames[2], mask_path=None)
    (batch,) = training_frames(frames).batches(torch.arange(4), 4)
    assert batch.has_parts_N.tolist() == [True, True, False, True]
    assert batch.pixels_NCHW[2, 3:].max() == 0
    assert batch.boxes_N4[2].tolist() == pytest.approx([edge * 64 / 96 for edge in frames[2].box_xyxy])
    logits_NKhw = torch.randn(4, 2, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    class_logits_NL = torch.zeros(4, 10).requires_grad_()
    losses = multi_task_losses(
        class_logits_NL,
        silenced(logits_NKhw, batch.has_parts_N),
        class_N=batch.class_N,
        coverage_NKHW=batch.pixels_NCHW[:, 3:].float() / 255,
        recipe=Recipe(),
    )
    losses.total.backward()
    assert logits_NKhw.grad is not None
    assert class_logits_NL.grad is not None
    assert logits_NKhw.grad.abs().amax((1, 2, 3)).gt(0).tolist() == [True, True, False, True]
    assert class_logits_NL.grad.abs().amax(1).gt(0).all()
    # Whatever the network says there, the loss is that of an answer that is right.
    changed_NKhw = logits_NKhw.detach().clone()
    changed_NKhw[2] += 7
    again = multi_task_losses(
        class_logits_NL,
        silenced(changed_NKhw, batch.has_parts_N),
        class_N=batch.class_N,
        coverage_NKHW=batch.pixels_NCHW[:, 3:].float() / 255,
        recipe=Recipe(),
    )
    assert torch.equal(again.total, losses.total)


def test_where_every_frame_has_masks_nothing_is_silenced() -> None:
    logits_NKhw = torch.randn(2, 2, 4, 4)
    assert silenced(logits_NKhw, torch.tensor([True, True])) is logits_NKhw
    plain = Batch(
        pixels_NCHW=torch.zeros(2, 5, 4, 4), class_N=torch.zeros(2, dtype=torch.int64), boxes_N4=torch.zeros(2, 4)
    )
    assert silenced(logits_NKhw, plain.has_parts_N) is logits_NKhw
