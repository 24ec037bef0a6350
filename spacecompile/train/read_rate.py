"""How many frames per second reach a training step: decoding by threads or processes, and augmentation.

Layout legend: N frames, C channels, H W input rows and columns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from spacecompile.contract import Progress, no_progress
from spacecompile.data.labels import LabelledFrame
from spacecompile.errors import UsageError
from spacecompile.record import Record
from spacecompile.train.augment import SETTINGS, augmented_with_boxes
from spacecompile.train.frames.dataset import Batch, TrainingFrames
from spacecompile.train.frames.loader import worker_deaths_told
from spacecompile.train.recipe import Augmentation

_BATCHES_MAX = 4_000


class DecodeRate(Record):
    """How fast batches come.

    Attributes:
        processes: Number of processes that decode; 0 for threads of the calling process.
        frames_per_s: After the first batch.
        frames: Counted for that.
        first_batch_s: Until the first batch, which starting the processes is part of.
    """

    processes: int
    frames_per_s: float
    frames: int
    first_batch_s: float


class AugmentRate(Record):
    """How fast batches are augmented.

    Attributes:
        augment: Level.
        device: Device that the batch was on.
        frames_per_s: Over all repetitions but the first.
        frames: Counted for that.
    """

    augment: Augmentation
    device: str
    frames_per_s: float
    frames: int


@worker_deaths_told()
def decode_rate(
    frames: Sequence[LabelledFrame],
    *,
    classes: Sequence[str],
    input_size_px: tuple[int, int],
    batch_size: int,
    processes: int,
    duration_s: float,
    progress: Progress = no_progress,
) -> tuple[DecodeRate, Batch]:
    """Decode random batches for some time, nothing kept in memory.

    Args:
        frames: To draw from.
        classes: Class names of a network that would learn from them.
        input_size_px: (height, width).
        batch_size: Frames per batch.
        processes: Number of processes that decode; 0 for threads.
        duration_s: To measure, after the first batch.
        progress: Told after every batch, in tenths of a second.

    Returns:
        The rate, and the last batch.

    Raises:
        DataError: If frames are broken; see `TrainingFrames`.
        UsageError: If the duration is not above zero, or a process died.
    """
    if duration_s <= 0:
        raise UsageError(f"duration is {duration_s}; it must be above zero. Check --duration.")
    store = TrainingFrames(frames, classes=classes, input_size_px=input_size_px, cache="none", processes=processes)
    generator = torch.Generator().manual_seed(0)
    order_N = torch.randint(len(frames), (batch_size * _BATCHES_MAX,), generator=generator)
    step = f"decode, {f'{processes} processes' if processes else 'threads'}"
    asked_s = time.perf_counter()
    batches = iter(store.batches(order_N, batch_size))
    batch = next(batches)  # what it takes is told apart
    started_s, counted = time.perf_counter(), 0
    for batch in batches:
        spent_s = time.perf_counter() - started_s
        counted += len(batch.class_N)
        progress(step, min(round(10 * spent_s), round(10 * duration_s)), round(10 * duration_s))
        if spent_s > duration_s:
            break
    rate = DecodeRate(
        processes=processes,
        frames_per_s=round(counted / (time.perf_counter() - started_s), 2),
        frames=counted,
        first_batch_s=round(started_s - asked_s, 2),
    )
    return rate, batch


def augment_rate(batch: Batch, augment: Augmentation, *, device: str, duration_s: float) -> AugmentRate:
    """Augment one batch again and again.

    Args:
        batch: Batch of frames at input size.
        augment: Level.
        device: For torch.
        duration_s: To measure.
    """
    pixels_NCHW, boxes_N4 = batch.pixels_NCHW.to(device).float(), batch.boxes_N4.to(device)
    generator = torch.Generator().manual_seed(0)

    def once() -> None:
        augmented_with_boxes(pixels_NCHW, boxes_N4, SETTINGS[augment], generator)
        if pixels_NCHW.is_cuda:
            torch.cuda.synchronize(pixels_NCHW.device)

    once()
    counted, started_s = 0, time.perf_counter()
    while time.perf_counter() - started_s < duration_s or not counted:
        once()
        counted += len(batch.class_N)
    rate = counted / (time.perf_counter() - started_s)
    return AugmentRate(augment=augment, device=device, frames_per_s=round(rate, 2), frames=counted)
