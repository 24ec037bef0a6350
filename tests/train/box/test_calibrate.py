"""Calibration from file to file: what is stored is what was compared, and the sealed graph does it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace as replace_spec

from spacecompile.box_rule import BoxHead, BoxRule
from spacecompile.cli.calibrate import rule_text
from spacecompile.cli.main import main
from spacecompile.data import spark
from spacecompile.data.labels import LabelledFrame, image_path, mask_path, read_split, spread
from spacecompile.data.spark import read_frame_HWC
from spacecompile.errors import OutputError, UsageError
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.metrics import box_iou, detection_score
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.train.box.calibrate import CalibrationJob, CalibrationReport, calibrate
from spacecompile.train.box.head import HeadSettings


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy network for frames of 96x96, with a rule that leaves room for better ones."""
    loaded = load_checkpoint(tiny_checkpoint)
    rule = BoxRule(margins_px=(9.0, 9.0, 9.0, 9.0))
    loaded.network.spec = replace_spec(loaded.spec, frame_size_px=(96, 96), box=rule)
    path = tmp_path_factory.mktemp("checkpoint") / "loose.pt"
    save_checkpoint(path, loaded.network, training={"note": "toy"}, half=True)
    return path


def job_of(checkpoint: Path, data: Path, output: Path, **changes: Any) -> CalibrationJob:
    settings = HeadSettings(shape=BoxHead(channels=4), shifts=1, epochs=3)
    job = CalibrationJob(
        checkpoint=checkpoint, data=data, output=output, head=settings, limit_frames=20, val_frames=8, device="cpu"
    )
    return replace(job, **changes)


@pytest.fixture(scope="module")
def calibrated(
    checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, CalibrationReport]:
    output = tmp_path_factory.mktemp("calibrated") / "net.pt"
    return output, calibrate(job_of(checkpoint, tiny_data, output, tta="d4"))


def test_every_estimator_is_compared_and_one_that_is_as_good_as_the_best_is_kept(
    calibrated: tuple[Path, CalibrationReport],
) -> None:
    output, report = calibrated
    assert (report.train_frames, report.val_frames) == (20, 8)
    for tta, extra in (("none", {"regression head"}), ("d4", {"median of boxes", "median of boxes at 0.5"})):
        estimates = [estimate for estimate in report.estimates if estimate.tta == tta]
        simple = {"as stored", "min/max at 0.5", "min/max", "min/max with support", "soft edges"}
        assert {estimate.name for estimate in estimates} == simple | extra
        (kept,) = (estimate for estimate in estimates if estimate.chosen)
        assert kept.s_det_train > max(estimate.s_det_train for estimate in estimates) - 0.1
        assert kept.s_det_train > estimates[0].s_det_train
        spec = load_checkpoint(output).spec
        assert spec.box_of(tta) == kept.rule
        assert (spec.box_head is not None) == spec.box.residual


@pytest.mark.parametrize("tta", ["none", "d4"])
def test_the_sealed_graph_scores_what_was_reported(
    calibrated: tuple[Path, CalibrationReport], tiny_data: Path, tta: Any
) -> None:
    output, report = calibrated
    loaded = load_checkpoint(output)
    (kept,) = (estimate for estimate in report.estimates if estimate.chosen and estimate.tta == tta)
    graph, ious = SealedGraph(loaded.network, loaded.spec, tta), []
    for frame in spread(read_split(tiny_data, "val"), 8):
        with torch.no_grad():
            box_xyxy = graph(torch.from_numpy(read_frame_HWC(frame.image_path).copy()))[2]
        ious.append(box_iou(box_xyxy.numpy(), frame.box_xyxy))
    # One frame may lie on a threshold of the score.
    assert detection_score(ious) == pytest.approx(kept.s_det_val, abs=0.02)


def test_facts_and_weights_are_kept(checkpoint: Path, calibrated: tuple[Path, CalibrationReport]) -> None:
    output, report = calibrated
    before, after = load_checkpoint(checkpoint), load_checkpoint(output)
    assert after.training["note"] == "toy"
    assert len(after.training["box_calibration"]["estimates"]) == len(report.estimates)
    weights = after.network.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in before.network.state_dict().items())
    assert output.stat().st_size < 1.05 * checkpoint.stat().st_size  # half precision stays half


def test_a_checkpoint_with_a_head_is_calibrated_anew_without_it(
    checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    loaded = load_checkpoint(checkpoint)
    spec = replace_spec(loaded.spec, box=BoxRule(residual=True), box_head=BoxHead(channels=4))
    with_head = type(loaded.network)(spec)
    with_head.load_state_dict(loaded.network.state_dict(), strict=False)
    save_checkpoint(tmp_path / "head.pt", with_head, training={})
    calibrate(job_of(tmp_path / "head.pt", tiny_data, tmp_path / "out.pt", head=None))
    assert load_checkpoint(tmp_path / "out.pt").spec.box_head is None


@pytest.mark.parametrize(
    ("changes", "error", "seen"),
    [
        pytest.param({"limit_frames": 7}, UsageError, "7 training frames are too few", id="too few frames"),
        pytest.param({"output": Path("missing/out.pt")}, OutputError, "missing", id="no folder for the output"),
        pytest.param({"output": Path("out.txt")}, OutputError, r"\.pt or \.safetensors", id="no checkpoint's name"),
    ],
)
def test_what_can_not_be_is_said_before_the_work(
    changes: dict[str, Any], error: type[Exception], seen: str, checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=seen):
        calibrate(replace(job_of(checkpoint, tiny_data, tmp_path / "out.pt"), **changes))
    assert not (tmp_path / "out.pt").exists()


def test_the_command_prints_a_table_and_gives_json(
    checkpoint: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.pt"
    arguments = ["calibrate", str(checkpoint), "--data", str(tiny_data), "-o", str(output), "--device", "cpu"]
    assert main([*arguments, "--limit-frames", "12", "--val-frames", "4", "--threads", "1", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert "soft edges" in captured.err
    assert "(kept)" in captured.err
    assert "spacecompile build" in captured.err
    result = json.loads(captured.out)
    assert (result["train_frames"], result["val_frames"], len(result["estimates"])) == (12, 4, 5)
    assert sum(estimate["chosen"] for estimate in result["estimates"]) == 1
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err


def test_a_rule_is_told_in_a_line() -> None:
    assert rule_text(BoxRule()) == "p > 0.5"
    rule = BoxRule(threshold=0.3, support_px=2, margins_px=(1.0, -2.0, 0.0, 0.5), margin_shares=(0.01,) * 4)
    assert rule_text(rule) == "p > 0.3, support 2 px, margins +1.0 -2.0 +0.0 +0.5 px, and +1.0% +1.0% +1.0% +1.0%"


def copied(data: Path, root: Path, split: str, *, copies: int) -> list[LabelledFrame]:
    """A split several times over, under different names."""
    frames = []
    for copy in range(copies):
        for frame in read_split(data, split):
            name, mask = frame.image_path.name, frame.required_mask_path
            there = replace(
                frame,
                image_path=image_path(root, frame.class_name, split, f"{copy}_{name}"),
                mask_path=mask_path(root, frame.class_name, split, f"{copy}_{mask.name}"),
            )
            for source, target in ((frame.image_path, there.image_path), (mask, there.required_mask_path)):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            frames.append(there)
    spark.write_split_csv(root, split, frames)
    return frames


def test_one_broken_file_in_a_hundred_is_left_out(checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    train = copied(tiny_data, tmp_path / "frames", "train", copies=3)
    copied(tiny_data, tmp_path / "frames", "val", copies=1)
    broken = train[50].image_path
    broken.write_bytes(broken.read_bytes()[:200])
    settings = HeadSettings(shape=BoxHead(channels=4), shifts=0, epochs=1)
    job = job_of(checkpoint, tmp_path / "frames", tmp_path / "out.pt", head=settings, limit_frames=0)
    report = calibrate(job)
    assert (len(train), report.train_frames, report.val_frames) == (120, 119, 8)
    assert "regression head" in {estimate.name for estimate in report.estimates}
