"""Event files: what TensorBoard reads back, also after an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from spacecompile import extras
from spacecompile.errors import MissingPartError
from spacecompile.train.loop import Callbacks, StepReport
from spacecompile.train.recipe import Recipe
from spacecompile.train.run import TrainJob, train

RECIPE = Recipe(epochs=2, batch_size=8, lr=1e-3, encoder_lr_scale=1.0)


def job_of(data: Path, start: Path, output: Path) -> TrainJob:
    return TrainJob(data=data, output=output, recipe=RECIPE, init=start, device="cpu", val_frames=2, tensorboard=True)


def test_every_step_and_epoch_is_there_once_though_the_run_was_interrupted(
    tiny_data: Path, still_checkpoint: Path, tmp_path: Path
) -> None:
    def stop(report: StepReport) -> None:
        if (report.epoch, report.step) == (2, 3):
            raise KeyboardInterrupt

    job = job_of(tiny_data, still_checkpoint, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(job, callbacks=Callbacks(on_step=stop))
    reports: list[StepReport] = []
    train(replace(job, resume=True, init=None), callbacks=Callbacks(on_step=reports.append))
    events = EventAccumulator(str(job.output / "tensorboard")).Reload()
    losses = events.Scalars("loss/loss")
    assert [event.step for event in losses] == list(range(1, 11))
    assert [event.value for event in losses[5:]] == pytest.approx([report.losses["loss"] for report in reports])
    assert [event.step for event in events.Scalars("validation/s_acc")] == [5, 10]
    assert set(events.Tags()["scalars"]) >= {"loss/dice", "loss/bce", "loss/cls", "lr", "validation/s_final"}
    # A new run begins a new log.
    train(replace(job, force=True, recipe=replace_epochs(1)))
    events = EventAccumulator(str(job.output / "tensorboard")).Reload()
    assert len(events.Scalars("loss/loss")) == 5


def replace_epochs(epochs: int) -> Recipe:
    return Recipe(epochs=epochs, batch_size=8, lr=1e-3, encoder_lr_scale=1.0)


def test_a_missing_extra_is_said_before_a_folder_is_made(
    tiny_data: Path, still_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(MissingPartError, match=r"pip install 'spacecompile\[tensorboard\]'"):
        train(job_of(tiny_data, still_checkpoint, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
