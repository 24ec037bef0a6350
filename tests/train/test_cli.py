"""`spacecompile train` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from spacecompile.cli.main import main
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.train.run import TrainJob

SMALL = ("--imgsz", "64", "--frame", "96x96", "--batch-size", "8", "--device", "cpu", "--threads", "1")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_says_what_it_made_and_what_comes_next(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--data", str(tiny_data), "-o", "run", "--epochs", "1", *SMALL, "--mean", "0.1,0.2,0.3"]
    assert main([*arguments, "--zoom", "1", "--no-amp", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert "epoch 1/1" in captured.err
    for name in ("dice", "bce", "cls", "s_cls", "s_det", "s_seg", "s_acc", "MB"):
        assert name in captured.err
    last = captured.err.splitlines()[-1]
    assert last.startswith(f"next: spacecompile calibrate run/model.pt --data {tiny_data} -o run/calibrated.pt")
    assert last.endswith("spacecompile build run/calibrated.pt")
    result = json.loads(captured.out)
    assert result["checkpoint"] == "run/model.pt"
    loaded = load_checkpoint(Path("run/model.pt"))
    assert result["scores"] == loaded.training["scores"]
    assert loaded.spec.mean == (0.1, 0.2, 0.3)
    assert loaded.training["amp"] == "float32"
    assert loaded.training["recipe"]["zoom"] == 1.0
    assert loaded.training["command"] == (
        f"spacecompile train --data {tiny_data} -o run --epochs 1 --batch-size 8 --no-amp --zoom 1.0 --imgsz 64 "
        "--frame 96x96 --mean 0.1,0.2,0.3 --device cpu --threads 1"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "seen"),
    [
        pytest.param(["--imgsz", "100"], 2, "multiples of 32", id="input that no encoder takes"),
        pytest.param(["--imgsz", "64x64x3"], 2, "--imgsz", id="three sides"),
        pytest.param(["--frame", "big"], 2, "--frame", id="frame that is no size"),
        pytest.param(["--mean", "0.1,0.2"], 2, "--mean", id="two channels"),
        pytest.param(["--std", "a,b,c"], 2, "--std", id="std that is no number"),
        pytest.param(["--augment", "wild"], 2, "--augment", id="unknown augmentation"),
        pytest.param(["--cache", "tape"], 2, "--cache", id="unknown cache"),
        pytest.param(["--epochs", "0"], 2, "--epochs", id="no epoch"),
        pytest.param(["--device", "tpu"], 2, "--device", id="unknown device"),
        pytest.param(["--device", "cuda:99"], 3, "--device cpu", id="device that is not there"),
        pytest.param(["--data", "missing"], 2, "missing", id="no data"),
        pytest.param(["--init", "missing.pt"], 2, "missing.pt", id="no start weights"),
        pytest.param(["--resume"], 2, "nothing to resume", id="nothing to resume"),
        pytest.param(["--resume", "--lr", "1", "--imgsz", "64"], 2, "--lr, --imgsz", id="resume with another recipe"),
        pytest.param(["--resume", "--limit-frames", "9"], 2, "--limit-frames", id="resume with other frames"),
        pytest.param(["--resume", "--teacher", "t.pt"], 2, "leave out --teacher", id="resume with a teacher"),
        pytest.param(["--resume", "--lovasz-weight", "1"], 2, "--lovasz-weight", id="resume with other losses"),
        pytest.param(["--teacher", "missing.pt", *SMALL], 2, "missing.pt", id="no teacher"),
        pytest.param(["--teacher-weight", "2"], 2, "there is no --teacher", id="weight of no teacher"),
        pytest.param(["--lr", "inf"], 2, "--lr", id="endless learning rate"),
        pytest.param(
            ["--classes", "a,b", *SMALL], 2, "Name all classes with --classes", id="classes that the frames do not have"
        ),
        pytest.param(["--bce-weight", "-1"], 2, "--bce-weight", id="loss with a negative weight"),
        pytest.param(["--json", "missing/train.json"], 2, "--json", id="result that can't be written"),
        pytest.param(["--lr", "1e30", *SMALL], 2, "diverged", id="divergence"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    arguments: list[str], code: int, seen: str, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(tiny_data), "-o", "run", *arguments]) == code
    captured = capsys.readouterr()
    assert seen in captured.err
    assert "Traceback" not in captured.err
    assert not Path("run/model.pt").exists()


def test_a_teacher_weights_and_event_files_are_taken_as_typed(
    tiny_data: Path, still_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--data", str(tiny_data), "-o", "run", "--epochs", "1", *SMALL, "--limit-frames", "8"]
    start = ["--init", str(still_checkpoint), "--teacher", str(still_checkpoint), "--teacher-weight", "0.5"]
    assert main([*arguments, *start, "--lovasz-weight", "0.25", "--dice-weight", "2", "--tensorboard"]) == 0
    error = capsys.readouterr().err
    for name in ("lovasz", "teacher", "page: run/report.html"):
        assert name in error
    training = load_checkpoint(Path("run/model.pt")).training
    recipe = training["recipe"]
    assert (recipe["lovasz_weight"], recipe["dice_weight"], recipe["teacher_weight"]) == (0.25, 2.0, 0.5)
    assert training["teacher_sha256"] == load_checkpoint(still_checkpoint).sha256
    assert list(Path("run/tensorboard").glob("events.out.tfevents*"))


@pytest.mark.parametrize(
    ("given", "input_size_px", "dropout"),
    [
        pytest.param([], (64, 64), 0.0, id="no flag"),
        pytest.param(["--imgsz", "96", "--dropout", "0.4"], (96, 96), 0.4, id="some flags"),
    ],
)
def test_a_start_checkpoint_keeps_what_no_flag_changes(
    tiny_data: Path, still_checkpoint: Path, given: list[str], input_size_px: tuple[int, int], dropout: float
) -> None:
    arguments = ["train", "--data", str(tiny_data), "-o", "run", "--init", str(still_checkpoint), "--epochs", "1"]
    small = ["--batch-size", "8", "--limit-frames", "8", "--val-frames", "1", "--device", "cpu", "--threads", "1"]
    assert main([*arguments, *small, *given]) == 0
    spec = load_checkpoint(Path("run/model.pt")).spec
    assert (spec.input_size_px, spec.dropout) == (input_size_px, dropout)
    assert spec.frame_size_px == (96, 96)


def test_a_run_is_never_overwritten_by_accident(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run").mkdir()
    Path("run/model.pt").write_bytes(b"precious")
    assert main(["train", "--data", str(tiny_data), "-o", "run", *SMALL]) == 2
    assert "--force" in capsys.readouterr().err
    assert Path("run/model.pt").read_bytes() == b"precious"


def test_an_output_that_can_not_be_made_is_refused(tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("mine")
    assert main(["train", "--data", str(tiny_data), "-o", "file/run", *SMALL]) == 2
    assert "file/run" in capsys.readouterr().err


def test_ctrl_c_exits_130_and_says_how_to_go_on(tiny_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spacecompile", "train", "--data", str(tiny_data), "-o", "run", *SMALL]
    repository = Path(__file__).parents[2]
    process = subprocess.Popen(
        [*command, "--epochs", "100000", "--val-frames", "2"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    assert process.stderr is not None
    for line in process.stderr:  # ends when an epoch was reported, or with the process
        if "epoch 1/" in line:
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "-o run --resume" in error
    assert "Traceback" not in error
    assert (tmp_path / "run" / "last.pt").is_file()


def test_flags_win_over_a_named_recipe_and_it_over_defaults(tiny_data: Path) -> None:
    Path("mine.json").write_text(
        json.dumps(
            {
                "name": "mine",
                "spec": {
                    "encoder": "tu-test_resnet",
                    "encoder_depth": 4,
                    "part_head": "shuffle",
                    "input_size_px": [96, 96],
                    "dropout": 0.3,
                },
                "recipe": {"epochs": 9, "batch_size": 8, "lr": 0.002, "weight_decay": 0.01},
            }
        )
    )
    given = ("--epochs", "1", "--imgsz", "64", "--frame", "96x96", "--device", "cpu", "--threads", "1")
    assert main(["train", "--data", str(tiny_data), "-o", "run", "--recipe", "mine.json", *given]) == 0
    facts = json.loads(Path("run/train.json").read_text())
    spec, recipe = facts["spec"], facts["recipe"]
    assert (spec["encoder"], spec["part_head"], spec["dropout"]) == ("tu-test_resnet", "shuffle", 0.3)
    assert (spec["input_size_px"], spec["frame_size_px"]) == ([64, 64], [96, 96])
    assert (recipe["epochs"], recipe["batch_size"], recipe["lr"], recipe["weight_decay"]) == (1, 8, 0.002, 0.01)
    assert "--recipe mine.json" in facts["command"]
    assert load_checkpoint(Path("run/model.pt")).spec.part_head == "shuffle"


@pytest.mark.parametrize("further", [[], ["--transfer"]])
def test_a_named_recipe_decides_the_input_size_whatever_the_checkpoint_had(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch, further: list[str]
) -> None:
    jobs: list[TrainJob] = []

    def asked(job: TrainJob, **_: object) -> None:
        jobs.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr("spacecompile.train.run.train", asked)
    command = ["train", "--data", str(tiny_data), "-o", "run", "--init", "net.pt", "--recipe", "post", *further]
    assert main(command) == main([*command, "--imgsz", "64"]) == 130
    assert [job.spec_changes["input_size_px"] for job in jobs] == [(512, 512), (64, 64)]
