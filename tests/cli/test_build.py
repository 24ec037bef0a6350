from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import spacecompile
from spacecompile.cli.main import main
from spacecompile.runtime.bundle import open_bundle


def build(*arguments: str | Path) -> int:
    return main(["build", *map(str, arguments)])


def test_a_build_says_each_step_the_proof_and_the_next_command(
    quick_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "net.spacepkg"
    assert build(quick_checkpoint, "-o", output, "--tta", "none,d4", "--parity-frames", 0, "--json", "-") == 0
    stdout, stderr = capfd.readouterr()
    report = json.loads(stdout)
    assert report["path"] == str(output)
    assert [variant["name"] for variant in report["variants"]] == ["fp32", "fp32-d4"]
    assert report["parity"]["variants"][0]["passed"]
    for step in ("rewrite", "export", "export d4", "write fp32", "parity fp32, onnxruntime", "self-test"):
        assert f"  {step} " in stderr
    variant_row = next(line for line in stderr.splitlines() if line.startswith("fp32-d4 "))
    assert re.search(r"100% fp32 +onnxruntime \(\d+ ms\), openvino \(\d+ ms\)", variant_row)
    assert "\nfold_batchnorm " in stderr
    assert "\nremove_unused " in stderr
    assert "same class on 100.0%" in stderr
    assert f"next: spacecompile predict {output} IMAGES" in stderr
    assert "Warning" not in stderr
    assert len(open_bundle(output).manifest.variants) == 2


def test_the_command_runs_as_a_process_and_prints_json_only_to_stdout(quick_checkpoint: Path, tmp_path: Path) -> None:
    root = str(Path(spacecompile.__file__).parents[1])
    arguments = ["build", str(quick_checkpoint), "-o", str(tmp_path / "net.spacepkg"), "--dry-run", "--json", "-"]
    done = subprocess.run([sys.executable, "-m", "spacecompile", *arguments], capture_output=True, check=True, cwd=root)
    assert json.loads(done.stdout)["dry_run"]["variants"][1]["name"] == "fp32-d4"
    assert b"nothing was written" in done.stderr
    assert b"Warning" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of a folder and everything in it."""
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in paths}


@pytest.mark.parametrize("output", ["here.spacepkg", "deeper/net.spacepkg", None])
def test_a_dry_run_lists_steps_and_files_and_touches_nothing(
    quick_checkpoint: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    output: str | None,
) -> None:
    workplace, source = tmp_path / "workplace", tmp_path / "source"
    workplace.mkdir()
    source.mkdir()
    # A copy: the folder of the shared checkpoint holds what other tests write meanwhile.
    checkpoint = shutil.copy(quick_checkpoint, source)
    monkeypatch.chdir(workplace)
    (workplace / "mine.txt").write_text("mine")
    before = _listing(tmp_path)
    flags = [] if output is None else ["-o", output]
    assert build(checkpoint, *flags, "--tta", "none", "--dry-run") == 0
    assert _listing(tmp_path) == before
    stdout, stderr = capfd.readouterr()
    rows = [line.split() for line in stdout.splitlines()]
    steps = [" ".join(row) for row in rows if row[0].isdigit()]
    assert steps[0].split()[:2] == ["1", "rewrite"]
    assert any(step.startswith("3 export ") for step in steps)
    assert f"files of {output or 'quick.spacepkg'}" in stdout
    listed = {row[0] for row in rows}
    assert {"variants/fp32/model.onnx", "reports/parity.json", "selftest/expected.json", "manifest.json"} <= listed
    assert "nothing was written" in stderr


def test_no_rewrite_says_what_it_costs(
    quick_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "net.spacepkg"
    assert build(quick_checkpoint, "-o", output, "--no-rewrite", "--tta", "none", "--parity-frames", 0) == 0
    stderr = capfd.readouterr().err
    line = next(line for line in stderr.splitlines() if "without rewrites" in line)
    numbers = re.fullmatch(
        r".*without rewrites: (\S+) instead of (\S+) GMAC \(fvcore\), (\S+) instead of (\S+) M parameters", line
    )
    assert numbers is not None
    macs, macs_rewritten, params, params_rewritten = map(float, numbers.groups())
    assert macs_rewritten < macs
    assert params_rewritten < params
    assert "Rewrites" not in stderr
    assert open_bundle(output).manifest.rewrites == ()


def test_flags_change_the_spec(quick_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ["--imgsz", "96", "--frame", "192x256", "--mean", "0,0.5,1", "--std", "1,2,3", "--classes", "a, b,c d"]
    assert build(quick_checkpoint, "-o", tmp_path / "net.spacepkg", *flags, "--dry-run", "--json", "-") == 0
    spec = json.loads(capfd.readouterr().out)["dry_run"]["spec"]
    assert spec["input_size_px"] == [96, 96]
    assert spec["frame_size_px"] == [192, 256]
    assert (spec["mean"], spec["std"]) == ([0, 0.5, 1], [1, 2, 3])
    assert spec["classes"] == ["a", "b", "c d"]


@pytest.mark.parametrize(
    ("flags", "seen"),
    [
        pytest.param(["--imgsz", "big"], "--imgsz is 'big'; give SIDE or HEIGHTxWIDTH", id="imgsz"),
        pytest.param(["--imgsz", "100"], "multiples of 32", id="imgsz that does not fit"),
        pytest.param(["--frame", "1x2x3"], "--frame is '1x2x3'", id="frame"),
        pytest.param(["--mean", "0.1,0.2"], "--mean is '0.1,0.2'; give three numbers", id="mean"),
        pytest.param(["--std", "0.1,0.2,0"], "std above zero", id="std"),
        pytest.param(["--std", "a,b,c"], "--std is 'a,b,c'", id="std that is no number"),
        pytest.param(["--classes", "a,b"], "names 2 classes, but the checkpoint's classifier has 3", id="classes"),
        pytest.param(["--precision", "fp8"], "--precision is 'fp8'; this version builds fp32, fp16", id="precision"),
        pytest.param(["--tta", "d8"], "--tta is 'd8'", id="tta"),
        pytest.param(["--imgsz", "64x96"], "variant d4 turns", id="d4 and not square"),
        pytest.param(["--data", "{tmp}"], "holds no image", id="empty data folder"),
        pytest.param(["--data", "{tmp}/none"], "is not a folder", id="missing data folder"),
        pytest.param(["-o", "{tmp}"], "exists. Choose another --output, or add --force", id="existing output"),
    ],
)
def test_arguments_that_can_not_be_used_exit_with_2_and_one_sentence(
    quick_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: list[str], seen: str
) -> None:
    (tmp_path / "data").mkdir()
    filled = [flag.replace("{tmp}", str(tmp_path / "data")) for flag in flags]
    assert build(quick_checkpoint, *(["-o", tmp_path / "net.spacepkg"] if "-o" not in flags else []), *filled) == 2
    stderr = capfd.readouterr().err
    assert seen in stderr
    assert "Traceback" not in stderr
    assert stderr.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["data"]


def test_a_missing_checkpoint_exits_with_2_and_a_json_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert build(tmp_path / "none.pt", "--json", "-") == 2
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["kind"] == "CheckpointError"
    assert "none.pt does not exist" in error["message"]


def test_a_missing_extra_exits_with_3_and_the_command_that_adds_it(
    quick_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def without_onnxsim(name: str) -> Any:
        return None if name == "onnxsim" else object()

    monkeypatch.setattr("spacecompile.extras.find_spec", without_onnxsim)
    assert build(quick_checkpoint, "-o", tmp_path / "net.spacepkg") == 3
    stderr = capfd.readouterr().err
    assert "build needs onnxsim" in stderr
    assert "pip install 'spacecompile[compile]'" in stderr


def test_half_adds_fp16_and_the_variants_are_a_table(
    quick_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["-o", tmp_path / "net.spacepkg", "--half", "--tta", "none", "--dry-run", "--json", "-"]
    assert build(quick_checkpoint, *flags, "--calibration-frames", 3) == 0
    plan = json.loads(capfd.readouterr().out)["dry_run"]
    assert [variant["name"] for variant in plan["variants"]] == ["fp32", "fp16"]
    assert [variant["certified"] for variant in plan["variants"]] == [[], []]
    assert {"calibration frames", "measure fp16"} <= {step["name"] for step in plan["steps"]}
