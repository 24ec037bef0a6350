"""What an epoch tells of its time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch

from spacecompile.train.dataset import Batch
from spacecompile.train.loop import Callbacks, StepReport, _Waiting
from spacecompile.train.recipe import Recipe
from spacecompile.train.run import TrainJob, train


def test_only_waiting_for_batches_is_counted() -> None:
    batch = Batch(pixels_NCHW=torch.zeros(1), class_N=torch.zeros(1), boxes_N4=torch.zeros(1, 4))

    def slow() -> Iterator[Batch]:
        for _ in range(3):
            time.sleep(0.02)
            yield batch

    waited, step_s = _Waiting(), 0.0
    for seen in waited.passing(slow()):
        assert seen is batch
        before_s, start_s = waited.seconds, time.perf_counter()
        time.sleep(0.02)
        step_s += time.perf_counter() - start_s
        assert waited.seconds == before_s  # the step's own time is none of it
    assert waited.seconds >= 3 * 0.02


def test_every_report_says_which_part_of_the_time_frames_were_waited_for(
    tmp_path: Path, tiny_data: Path, still_checkpoint: Path
) -> None:
    reports: list[StepReport] = []
    recipe = Recipe(epochs=1, batch_size=8, lr=1e-3)
    job = TrainJob(data=tiny_data, output=tmp_path / "run", recipe=recipe, init=still_checkpoint, device="cpu")
    train(job, callbacks=Callbacks(on_step=reports.append))
    assert len(reports) == 5
    assert all(0 < report.waiting_share < 1 for report in reports)
