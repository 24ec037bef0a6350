"""Whole tiny runs of the reference network: learning, resuming, stopping, refusing, storing."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from spacecompile.box_rule import BoxHead, BoxRule
from spacecompile.contract import SPARK_CLASSES, ModelSpec
from spacecompile.data.broken import BrokenFile
from spacecompile.data.labels import read_split
from spacecompile.errors import CheckpointError, DataError, OutputError, UsageError
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train import loop, run
from spacecompile.train.device import plan_device
from spacecompile.train.evaluate import score_rules
from spacecompile.train.frames.dataset import Batch, TrainingFrames, ValidationFrames
from spacecompile.train.loop import Callbacks, EpochReport, StepReport
from spacecompile.train.optimise import lr_factor
from spacecompile.train.processes import Alone
from spacecompile.train.recipe import Recipe
from spacecompile.train.run import RUN_FILES, TrainJob, train
from spacecompile.train.step import train_step

RECIPE = Recipe(epochs=2, batch_size=8, lr=1e-3, encoder_lr_scale=1.0, ema=0.9, zoom=1.0, seed=4)
SPEC_CHANGES = {"input_size_px": (64, 64), "frame_size_px": (96, 96)}


def tiny_job(data: Path, output: Path, **changes: Any) -> TrainJob:
    job = TrainJob(data=data, output=output, recipe=RECIPE, spec_changes=SPEC_CHANGES, device="cpu", val_frames=4)
    return replace(job, **changes)


def history_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("epoch", "losses", "scores", "lr")} for line in lines]


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "finished"
    train(tiny_job(tiny_data, output, command="spacecompile train --data tiny"))
    return output


def test_a_run_leaves_its_files_and_facts(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == sorted(RUN_FILES)
    assert (finished / "model.pt").stat().st_size < 8e6
    training = load_checkpoint(finished / "model.pt").training
    assert training["command"] == "spacecompile train --data tiny"
    assert training["recipe"]["lr"] == RECIPE.lr
    assert (training["epochs"], training["steps"], training["frames"]) == (2, 10, 40)
    assert set(training["scores"]) >= {"s_cls", "s_det", "s_seg", "s_acc", "s_flops", "s_params", "s_final"}
    assert training["validation"] == {"split": "val", "frames": 10, "frame_size_px": [96, 96]}
    assert json.loads((finished / "train.json").read_text())["finished"] is True


def test_stored_scores_are_those_of_the_stored_bytes(finished: Path, tiny_data: Path) -> None:
    loaded = load_checkpoint(finished / "model.pt")
    frames = ValidationFrames(
        read_split(tiny_data, "val"), classes=loaded.spec.classes, input_size_px=(64, 64), frame_size_px=(96, 96)
    )
    stored = loaded.training["scores"]
    cost = json.loads((finished / "history.jsonl").read_text().splitlines()[0])["scores"]
    from spacecompile.network.count import cost_of

    (scores,) = score_rules(
        loaded.network.to(memory_format=torch.channels_last),
        frames,
        (loaded.spec.box,),
        cost=cost_of(loaded.network, loaded.spec.input_size_px),
        plan=plan_device("cpu", amp=False),
    )
    for name in ("s_cls", "s_det", "s_seg", "s_final"):
        assert getattr(scores, name) == pytest.approx(stored[name], abs=1e-9), name
    assert cost["s_params"] == stored["s_params"]


def test_weights_move_and_losses_fall(finished: Path) -> None:
    first, second = history_of(finished)
    assert second["losses"]["loss"] < first["losses"]["loss"]
    assert second["losses"]["bce"] < first["losses"]["bce"]


@pytest.mark.parametrize("epochs_before", [0, 1], ids=["mid second epoch", "between epochs"])
def test_an_interrupted_run_resumes_as_if_never_interrupted(
    finished: Path, tiny_data: Path, tmp_path: Path, epochs_before: int
) -> None:
    def stop_in_second_epoch(report: StepReport) -> None:
        if (report.epoch, report.step) == (2, 2):
            raise KeyboardInterrupt

    def stop_after_first_epoch(report: EpochReport) -> None:
        raise KeyboardInterrupt

    stop = Callbacks(on_epoch=stop_after_first_epoch) if epochs_before else Callbacks(on_step=stop_in_second_epoch)
    job = tiny_job(tiny_data, tmp_path / "run", command="started")
    with pytest.raises(KeyboardInterrupt):
        train(job, callbacks=stop)
    assert [line["epoch"] for line in history_of(job.output)] == [1]
    # What the caller says when resuming doesn't count: recipe, frames and command are those of the run.
    train(replace(job, resume=True, recipe=Recipe(), val_frames=2, limit_frames=8, command="resumed"))
    assert load_checkpoint(job.output / "model.pt").training["command"] == job.command
    assert history_of(job.output) == history_of(finished)
    weights, expected = (load_checkpoint(run / "model.pt").network.state_dict() for run in (job.output, finished))
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_a_run_stopped_in_its_first_epoch_can_be_given_again(finished: Path, tiny_data: Path, tmp_path: Path) -> None:
    def stop(report: StepReport) -> None:
        raise KeyboardInterrupt

    job = tiny_job(tiny_data, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(job, callbacks=Callbacks(on_step=stop))
    assert [path.name for path in job.output.iterdir()] == ["train.json"]
    train(job)
    assert history_of(job.output) == history_of(finished)
    # A finished run is none of that, even when only its facts are left.
    for name in set(RUN_FILES) - {"train.json"}:
        (job.output / name).unlink()
    with pytest.raises(OutputError, match="--force"):
        train(job)


def test_a_run_stopped_before_its_first_state_leaves_no_weights_that_block_the_next(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    job = tiny_job(tiny_data, tmp_path / "run")
    monkeypatch.setattr("spacecompile.train.loop.save_state", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(job)
    assert [path.name for path in job.output.iterdir()] == ["train.json"]


def test_a_time_limit_ends_the_run_and_the_learning_rate_follows_the_clock(tiny_data: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=10_000, batch_size=8, lr=1e-3, time_limit_min=2 / 60, warmup_epochs=0)
    reports: list[StepReport] = []
    report = train(
        tiny_job(tiny_data, tmp_path / "run", recipe=recipe, limit_frames=16),
        callbacks=Callbacks(on_step=reports.append),
    )
    assert report.elapsed_s >= 2
    assert all(step.run_share < 1 for step in reports[:-1])
    for before, step in pairwise(reports):
        expected = recipe.lr * lr_factor(step=0, warmup_steps=0, progress=before.run_share)
        # A validation between two steps moves the clock on, so the rate may only be lower.
        assert 0 <= step.lr <= expected * (1 + 1e-9)
    assert (tmp_path / "run" / "model.pt").is_file()


def test_divergence_stops_with_one_sentence_and_keeps_the_last_good_epoch(tiny_data: Path, tmp_path: Path) -> None:
    job = tiny_job(tiny_data, tmp_path / "run", recipe=Recipe(epochs=2, batch_size=8, lr=1e-3))

    def stop(report: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, callbacks=Callbacks(on_epoch=stop))
    state = torch.load(job.output / "last.pt", weights_only=True)
    for tensor in state["network"].values():
        if tensor.is_floating_point():
            tensor.mul_(float("inf"))
    torch.save(state, job.output / "last.pt")
    kept = {name: (job.output / name).read_bytes() for name in ("last.pt", "best.pt", "history.jsonl")}
    with pytest.raises(UsageError, match=r"diverged in epoch 2: .* is not finite.*last\.pt holds epoch 1"):
        train(replace(job, resume=True))
    assert kept == {name: (job.output / name).read_bytes() for name in kept}


def test_weights_start_from_another_checkpoint_at_another_size(finished: Path, tiny_data: Path, tmp_path: Path) -> None:
    start = load_checkpoint(finished / "model.pt")
    start.network.spec = replace_spec(start.network.spec, mean=(0.1, 0.2, 0.3), box=BoxRule(threshold=0.3))
    save_checkpoint(tmp_path / "start.pt", start.network, training={})
    job = tiny_job(
        tiny_data,
        tmp_path / "run",
        init=tmp_path / "start.pt",
        spec_changes={"input_size_px": (96, 96), "frame_size_px": (96, 96)},
        recipe=Recipe(epochs=1, batch_size=8, lr=1e-9),
        limit_frames=8,
    )
    train(job)
    tuned = load_checkpoint(job.output / "best.pt")
    assert tuned.spec.input_size_px == (96, 96)
    assert tuned.spec.mean == (0.1, 0.2, 0.3)
    assert tuned.spec.box == BoxRule()
    for (name, value), origin in zip(tuned.network.named_parameters(), start.network.parameters(), strict=True):
        assert torch.allclose(value, origin, atol=1e-6), name


def replace_spec(spec: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(spec, **changes)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        pytest.param({}, OutputError, "--resume, overwrite with --force", id="existing run"),
        pytest.param({"resume": True, "force": True}, UsageError, "can't be combined", id="resume and force"),
        pytest.param({"data": Path("nowhere")}, DataError, "nowhere", id="no data"),
        pytest.param({"init": Path("none.pt"), "force": True}, CheckpointError, "none.pt", id="no start weights"),
    ],
)
def test_what_can_not_work_is_refused_and_nothing_is_touched(
    finished: Path, tiny_data: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    with pytest.raises(error, match=words):
        train(tiny_job(**{"data": tiny_data, "output": finished, **changes}))
    assert before == {path.name: path.read_bytes() for path in finished.iterdir()}


def test_nothing_to_resume_is_said(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(tiny_job(tiny_data, tmp_path / "run", resume=True))


def edited(data: Path, target: Path, edit: Callable[[list[str]], list[str]]) -> Path:
    """A copy of the data with other rows in the training split's csv, its header aside."""
    shutil.copytree(data, target)
    header, *rows = (target / "train.csv").read_text().splitlines()
    (target / "train.csv").write_text("\n".join([header, *edit(rows)]) + "\n")
    return target


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda rows: rows[:-1], id="a row less"),
        pytest.param(lambda rows: [*rows[1:], rows[0]], id="another order"),
        pytest.param(lambda rows: [rows[0].replace(')"', '0)"'), *rows[1:]], id="another box"),
    ],
)
def test_a_run_is_resumed_with_its_own_labels_only(
    finished: Path, tiny_data: Path, tmp_path: Path, edit: Callable[[list[str]], list[str]]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    before = (tmp_path / "run/last.pt").read_bytes()
    with pytest.raises(UsageError, match="names, classes, boxes or their order differ"):
        train(tiny_job(edited(tiny_data, tmp_path / "other", edit), tmp_path / "run", resume=True))
    assert (tmp_path / "run/last.pt").read_bytes() == before


def test_a_run_is_resumed_wherever_its_data_lies(finished: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(tiny_data, tmp_path / "moved")
    train(tiny_job(tmp_path / "moved", tmp_path / "run", resume=True))


def test_a_transfer_makes_a_new_classifier_where_the_data_has_other_classes(
    finished: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = load_checkpoint(finished / "model.pt")
    foreign.network.spec = msgspec.structs.replace(foreign.spec, classes=tuple(f"craft {index}" for index in range(10)))
    save_checkpoint(tmp_path / "foreign.pt", foreign.network, training={})
    job = tiny_job(tiny_data, tmp_path / "run", init=tmp_path / "foreign.pt", transfer=True, spec_changes={})
    report = train(job)
    assert load_checkpoint(report.checkpoint).spec.classes == SPARK_CLASSES
    assert "new are tensors of classification_head.3" in caplog.text


def test_decoding_processes_end_with_the_last_epoch(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, left = run._finish, []

    def watched(*arguments: Any) -> Any:
        left.extend(multiprocessing.active_children())
        return finish(*arguments)

    monkeypatch.setattr(run, "_finish", watched)
    train(tiny_job(tiny_data, tmp_path / "run", workers=2, cache="none"))
    assert left == []


def test_a_file_that_is_lost_and_restored_hinders_no_run(tiny_data: Path, tmp_path: Path) -> None:
    data = edited(tiny_data, tmp_path / "data", lambda rows: rows * 3)  # one in 120 may be missing
    job = tiny_job(data, tmp_path / "run", recipe=msgspec.structs.replace(RECIPE, epochs=3), limit_frames=24)

    def stop(report: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, callbacks=Callbacks(on_epoch=stop))
    (lost,) = data.rglob("train_00001_img.jpg")
    lost.rename(tmp_path / "kept.jpg")
    with pytest.raises(KeyboardInterrupt):
        train(replace(job, resume=True), callbacks=Callbacks(on_epoch=stop))
    (tmp_path / "kept.jpg").rename(lost)
    report = train(replace(job, resume=True))
    training = load_checkpoint(report.checkpoint).training
    assert training["epochs"] == 3
    assert len(training["broken_files"]) == 1
    assert "train_00001_img.jpg does not exist" in training["broken_files"][0]


def test_a_state_of_another_version_is_refused_with_what_to_do(finished: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    state = torch.load(tmp_path / "run/last.pt", weights_only=True)
    torch.save({**state, "format": "spacecompile-training-2"}, tmp_path / "run/last.pt")
    with pytest.raises(CheckpointError, match=r"another version began this run. Start a new one from its best\.pt"):
        train(tiny_job(tiny_data, tmp_path / "run", resume=True))


def test_broken_files_of_both_splits_are_listed_though_a_resumed_run_meets_them_no_more(
    data_with_broken_files: Path, tmp_path: Path
) -> None:
    shutil.copytree(data_with_broken_files, tmp_path / "data")

    def stop(report: EpochReport) -> None:
        raise KeyboardInterrupt

    job = tiny_job(tmp_path / "data", tmp_path / "run", val_frames=0)
    with pytest.raises(KeyboardInterrupt):
        train(job, callbacks=Callbacks(on_epoch=stop))
    for broken in (tmp_path / "data").rglob("*broken*_img.jpg"):
        shutil.copyfile(next(broken.parent.glob("*_00000_img.jpg")), broken)
    report = train(replace(job, resume=True))
    reasons = load_checkpoint(report.checkpoint).training["broken_files"]
    assert len(reasons) == 2
    for reason, split in zip(reasons, ("train", "val"), strict=True):
        assert f"{split}_broken_img.jpg" in reason


def test_frames_that_could_not_be_used_are_not_counted_as_scored_or_calibrated_on(
    data_with_broken_files: Path, still_checkpoint: Path, tmp_path: Path
) -> None:
    """One of 121 training and one of 111 validation frames is broken."""
    recipe = Recipe(epochs=1, batch_size=8, lr=1e-3)
    job = tiny_job(data_with_broken_files, tmp_path / "run", init=still_checkpoint, recipe=recipe, val_frames=0)
    training = load_checkpoint(train(job).checkpoint).training
    assert (training["validation"]["frames"], training["box_calibration"]["frames"]) == (110, 120)


def test_broken_files_of_all_processes_count_together(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = (BrokenFile(path=Path("far.jpg"), reason="far.jpg is not an image"),)
    monkeypatch.setattr(Alone, "from_all", lambda _, value: [value, other])
    with pytest.raises(DataError, match=r"1 of 40 frames of the training frames are broken.*far\.jpg"):
        train(tiny_job(tiny_data, tmp_path / "run"))


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04 truncated"], ids=["empty", "foreign", "cut"])
def test_a_damaged_state_is_refused(tiny_data: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt is truncated or not a training state"):
        train(tiny_job(tiny_data, tmp_path, resume=True))


def test_a_checkpoint_is_no_state_to_resume(finished: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes((finished / "model.pt").read_bytes())
    with pytest.raises(CheckpointError, match="spacecompile-checkpoint-1"):
        train(tiny_job(tiny_data, tmp_path, resume=True))


def test_too_few_frames_are_refused_before_a_folder_is_made(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--batch-size"):
        train(tiny_job(tiny_data, tmp_path / "run", limit_frames=7))
    assert not (tmp_path / "run").exists()


def test_an_output_that_is_a_file_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        train(tiny_job(tiny_data, tmp_path / "run", force=True))
    assert (tmp_path / "run").read_text() == "mine"


def test_force_replaces_only_a_runs_own_files(finished: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"old")
    (tmp_path / "calibrated.pt").write_bytes(b"of the old one")
    (tmp_path / "notes.txt").write_text("mine")
    train(tiny_job(tiny_data, tmp_path, force=True, recipe=Recipe(epochs=1, batch_size=8), limit_frames=8))
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "calibrated.pt").exists()
    assert load_checkpoint(tmp_path / "model.pt").training["frames"] == 8


def test_craft_views_fade_out_as_the_run_goes_on(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    original = TrainingFrames.batches

    def recorded(self: TrainingFrames, *arguments: Any, craft_share: float, **options: Any) -> Iterator[Batch]:
        shares.append(craft_share)
        return original(self, *arguments, craft_share=craft_share, **options)

    monkeypatch.setattr(TrainingFrames, "batches", recorded)
    recipe = Recipe(epochs=4, batch_size=8, lr=1e-3, zoom=0.8, zoom_until=0.5)
    train(tiny_job(tiny_data, tmp_path / "run", recipe=recipe, limit_frames=8, val_frames=1))
    assert shares == pytest.approx([0.8, 0.4, 0.0, 0.0])


def test_the_box_loss_begins_after_thirty_percent_of_the_run_and_is_averaged_over_its_own_steps(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[dict[str, float]] = []

    def recorded(*arguments: Any, **options: Any) -> dict[str, float]:
        steps.append(train_step(*arguments, **options))
        return steps[-1]

    monkeypatch.setattr(loop, "train_step", recorded)
    recipe = msgspec.structs.replace(RECIPE, box_loss_weight=0.5, epochs=4)
    losses: list[tuple[float, dict[str, float]]] = []
    callbacks = Callbacks(on_epoch=lambda report: losses.append((report.epoch / report.epochs, report.losses)))
    train(tiny_job(tiny_data, tmp_path / "run", recipe=recipe), callbacks=callbacks)
    assert [share for share, values in losses if "box" in values] == [0.5, 0.75, 1.0]
    begun = [step["box"] for step in steps[5:10] if "box" in step]
    assert len(begun) == 3
    assert losses[1][1]["box"] == pytest.approx(sum(begun) / 3)
    last = losses[-1][1]
    assert last["loss"] == pytest.approx(last["dice"] + last["bce"] + last["cls"] + 0.5 * last["box"], rel=1e-4)


def test_training_from_a_checkpoint_with_a_box_head_starts_without_it(tiny_data: Path, tmp_path: Path) -> None:
    spec = ModelSpec(**SPEC_CHANGES, box_head=BoxHead(), box=BoxRule(residual=True))  # type: ignore[arg-type]
    save_checkpoint(tmp_path / "start.pt", MultiTaskNetwork(spec), training={})
    job = tiny_job(
        tiny_data, tmp_path / "run", init=tmp_path / "start.pt", recipe=msgspec.structs.replace(RECIPE, epochs=1)
    )
    train(job)
    loaded = load_checkpoint(tmp_path / "run" / "model.pt")
    assert loaded.spec.box_head is None
    assert not loaded.spec.box.residual
