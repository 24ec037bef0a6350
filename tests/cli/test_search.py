"""`spacecompile search`: what it refuses before any work, and whole searches as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("ray", reason="needs the search extra")

from spacecompile.cli.main import main

REPOSITORY = Path(__file__).parents[2]
# A network whose epoch takes a second.
SMALL = ("--imgsz", "64", "--frame", "128x128", "--batch-size", "8", "--device", "cpu", "--at-once", "1")
QUICK = ("--pairs", "FPN:tu-test_resnet,Segformer:tu-test_resnet")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 8 validation frames of 128x128, rendered."""
    root = tmp_path_factory.mktemp("search-cli") / "frames"
    for split, count in (("train", 24), ("val", 8)):
        arguments = ["render", "-o", str(root), "--split", split, "--frames", str(count), "--size", "128"]
        assert main([*arguments, "--workers", "1"]) == 0
    return root


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        pytest.param(["architectures", "--pairs", "Unet"], "ARCHITECTURE:ENCODER", id="half a pair"),
        pytest.param(["architectures", "--recipes", "best"], "no recipe is named 'best'", id="unknown network"),
        pytest.param(["architectures", "--imgsz", "50"], "multiples of 32", id="input that no encoder takes"),
        pytest.param(["architectures", *QUICK, "--epochs", "0"], "--epochs", id="no epoch"),
        pytest.param(["architectures", *QUICK, "--resume"], "no search to resume", id="nothing to resume"),
        pytest.param(["hyperparameters", "--recipe", "best"], "no recipe is named 'best'", id="unknown recipe"),
        pytest.param(["hyperparameters", "--phases", "luck"], "no phase is named 'luck'", id="unknown phase"),
        pytest.param(["hyperparameters", "--phases", "refinement,"], "--phases is 'refinement,'", id="empty phase"),
        pytest.param(["hyperparameters", "--phases", "refinement, refinement"], "refinement twice", id="phase twice"),
        pytest.param(["hyperparameters", "--lr", "0"], "lr", id="no learning rate"),
        pytest.param(["architectures", *QUICK, "--lr", "0"], "lr", id="no learning rate for networks"),
        pytest.param(["architectures", "--encoders", "mit_b0,,mit_b0"], "--encoders", id="empty encoder"),
        pytest.param(["architectures", *QUICK, "--device", "foo"], "device is 'foo'", id="no device"),
        pytest.param(["architectures", *QUICK, "--batch-size", "25"], "--batch-size", id="batch of too many"),
        pytest.param(["hyperparameters", "--gpus", "64"], "--gpus is 64", id="more GPUs than there are"),
        pytest.param(["hyperparameters", "--data", "nowhere"], "nowhere", id="no data"),
        pytest.param(["hyperparameters", "--json", "missing/a.json"], "--json", id="result that can't be written"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(
    arguments: list[str],
    seen: str,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command, *rest = arguments
    assert main(["search", command, "--data", str(frames), "-o", "out", *rest]) == 2
    captured = capsys.readouterr()
    assert seen in " ".join(captured.err.split())
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "spacecompile", "search", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


@pytest.mark.slow
def test_an_interrupted_search_goes_on_and_its_best_is_a_recipe(frames: Path, tmp_path: Path) -> None:
    search = ("architectures", "--data", str(frames), "-o", "out", *QUICK, *SMALL, "--epochs", "4")
    first = started(tmp_path, *search)
    while first.poll() is None and not list((tmp_path / "out").glob("tune/architectures/*/checkpoint_*")):
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    _, error = first.communicate(timeout=600)
    assert first.returncode == 130, error
    assert "--resume" in error
    assert not (tmp_path / "out" / "search.json").exists()
    second = started(tmp_path, *search, "--resume", "--json", "-")
    output, error = second.communicate(timeout=600)
    assert second.returncode == 0, error
    result = json.loads(output)
    assert [one["status"] for one in result["outcomes"]] == ["done", "done"]
    assert [len(one["history"]) for one in result["outcomes"]] == [4, 4]
    assert result == json.loads((tmp_path / "out" / "search.json").read_bytes())
    for name in ("index.html", "pareto.png", "best.json"):
        assert (tmp_path / "out" / name).is_file()
    train = [
        "train",
        "--recipe",
        str(tmp_path / "out" / "best.json"),
        "--data",
        str(frames),
        "-o",
        str(tmp_path / "run"),
    ]
    assert main([*train, "--epochs", "1", "--json", str(tmp_path / "train.json")]) == 0
    facts = json.loads((tmp_path / "run" / "train.json").read_bytes())
    assert facts["spec"]["encoder"] == "tu-test_resnet"
    assert (facts["recipe"]["epochs"], facts["recipe"]["batch_size"]) == (1, 8)
    assert facts["spec"]["input_size_px"] == [64, 64]


@pytest.mark.slow
def test_each_phase_carries_its_best_into_the_next(frames: Path, tmp_path: Path) -> None:
    recipe = {
        "name": "small",
        "spec": {
            "encoder": "tu-test_resnet",
            "encoder_depth": 4,
            "decoder_options": {"decoder_segmentation_channels": 16},
        },
        "recipe": {"lr": 1e-3, "encoder_lr_scale": 1.0, "amp": False},
    }
    (tmp_path / "small.json").write_text(json.dumps(recipe))
    search = ("hyperparameters", "--data", str(frames), "-o", "out", "--recipe", "small.json", *SMALL, "--epochs", "1")
    process = started(tmp_path, *search, "--phases", "learning-rate,refinement", "--json", "-")
    output, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    first, second = json.loads(output)["phases"]
    rates = {one["candidate"]["name"]: one["candidate"]["recipe"]["lr"] for one in first["outcomes"]}
    tried = sorted(one["candidate"]["recipe"]["lr"] for one in second["outcomes"])
    assert tried == pytest.approx([rates[first["best"]] * step for step in (0.7, 1.0, 1.4, 2.0, 2.8)])
    best = msgspec.json.decode((tmp_path / "out" / "best.json").read_bytes())
    assert best["recipe"]["lr"] in tried
