"""What an epoch tells of its time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from spacecompile.train import loop
from spacecompile.train.frames.dataset import Batch
from spacecompile.train.loop import Callbacks, StepReport, _Waiting
from spacecompile.train.recipe import Recipe
from spacecompile.train.run import TrainJob, train


def test_only_waiting_for_batches_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(pixels_NCHW=torch.zeros(1), class_N=torch.zeros(1), boxes_N4=torch.zeros(1, 4))
    clock_s = 0.0
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock_s)

    def slow() -> Iterator[Batch]:
        nonlocal clock_s
        for _ in range(3):
            clock_s += 2.0
            yield batch

    waited = _Waiting()
    for seen in waited.passing(slow()):
        assert seen is batch
        clock_s += 5.0  # the step's own time is none of it
    assert waited.seconds == 6.0


def test_every_report_says_which_part_of_the_time_frames_were_waited_for(
    tmp_path: Path, tiny_data: Path, still_checkpoint: Path
) -> None:
    reports: list[StepReport] = []
    recipe = Recipe(epochs=1, batch_size=8, lr=1e-3)
    job = TrainJob(data=tiny_data, output=tmp_path / "run", recipe=recipe, init=still_checkpoint, device="cpu")
    train(job, callbacks=Callbacks(on_step=reports.append))
    assert len(reports) == 5
    assert all(0 <= report.waiting_share <= 1 for report in reports)
    (line,) = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert json.loads(line)["waiting_share"] == reports[-1].waiting_share
