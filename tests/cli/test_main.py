"""The command line as a whole: help, exit codes, one sentence per error, JSON on stdout even on failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from spacecompile.cli.main import main

COMMANDS = (
    *("render", "train", "search", "build", "inspect", "verify", "predict", "eval", "bench", "compare", "prove"),
    "demo",
)
GROUPS = {
    "bench": ("What is measured", "How variants are run", "Length of the latency run", "Limits of the machine"),
    "prove": ("Length of the latency run",),
    "train": ("What to start from", "Recipe: schedule", "Recipe: losses", "Network", "Frames and machine"),
    "search architectures": ("Candidates", "Training of each candidate", "Running candidates side by side"),
    "search hyperparameters": ("Candidates", "Training of each candidate", "Running candidates side by side"),
    "engine": ("How plans are built",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: spacecompile " + command in capsys.readouterr().out


@pytest.mark.parametrize("command", GROUPS)
def test_many_options_stand_in_groups_that_fit_a_narrow_terminal(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert [group for group in GROUPS[command] if f"─ {group} ─" not in shown] == []
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("flags", [["--compare", "a.json", "b.json"], ["--prove"], ["--device", "cuda"]])
def test_bench_only_measures(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "net.spacepkg", *flags]) == 2
    assert f"No such option: {flags[0]}" in " ".join(capsys.readouterr().err.split())


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("spacecompile 0.")


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        pytest.param(["bulid"], "bulid", id="unknown command"),
        pytest.param(["build"], "CKPT", id="missing argument"),
        pytest.param(["build", "x.pt", "--pecision", "fp32"], "--pecision", id="unknown flag"),
        pytest.param(["render", "-o", "frames", "--frames", "many"], "--frames", id="not a number"),
        pytest.param(["build", "missing.pt"], "missing.pt", id="missing checkpoint"),
        pytest.param(["eval", "missing.pt", "--data", "frames"], "missing.pt", id="missing model"),
    ],
)
def test_wrong_arguments_exit_2_with_one_sentence(
    arguments: list[str], seen: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert seen in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["predict", "verify", "inspect", "bench"])
def test_a_missing_bundle_is_refused_with_json_on_stdout(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frame.png").write_bytes(b"never read")
    extra = ["frame.png", "-o", "out"] if command == "predict" else []
    code = main([command, "missing.spacepkg", *extra, "--json", "-"])
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["exit_code"] == code in {2, 7}
    assert "missing.spacepkg" in document["error"]["message"]


def test_a_bug_gives_a_traceback_for_the_report_and_still_one_json_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("spacecompile.runtime.bundle.open_bundle", broken)
    assert main(["inspect", str(tmp_path), "--json", "-"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["kind"] == "ZeroDivisionError"
    assert "Traceback" in captured.err
    assert "This is a bug" in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["render", "-o", "made", "--frames", "2", "--size", "64"],
        ["train", "--data", "frames", "-o", "made"],
        ["build", "net.pt", "-o", "made"],
        ["predict", "net.spacepkg", "frame.png", "-o", "made"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_json_file_that_is_there_is_kept_and_force_which_would_replace_more_is_not_advised(
    arguments: list[str],
    quick_checkpoint: Path,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pt").symlink_to(quick_checkpoint)
    (tmp_path / "net.spacepkg").symlink_to(tiny_bundle)
    Image.new("RGB", (128, 128)).save(tmp_path / "frame.png")
    (tmp_path / "result.json").write_text("mine")
    assert main([*arguments, "--json", "result.json"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "result.json exists" in said
    assert "remove it first" in said
    assert "--force" not in said
    assert (tmp_path / "result.json").read_text() == "mine"
    assert not (tmp_path / "made").exists()


def test_a_bundle_holds_no_json_of_ours(
    quick_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "net.spacepkg"
    for path in (bundle, bundle / "report.json"):
        assert main(["build", str(quick_checkpoint), "-o", str(bundle), "--json", str(path)]) == 2
        assert "lies in the output" in " ".join(capsys.readouterr().err.split())
        assert not bundle.exists()


def test_a_full_stdout_is_one_sentence(tiny_bundle: Path) -> None:
    for extra in ([], ["--json", "-"]):
        command = [sys.executable, "-m", "spacecompile", "inspect", str(tiny_bundle), *extra]
        with Path("/dev/full").open("w") as full:
            run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert run.returncode == 2
        assert "can't write to stdout: No space left on device" in " ".join(run.stderr.split())
        assert "Traceback" not in run.stderr


def test_a_path_that_is_no_text_still_gives_a_json_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "\udcff.spacepkg", "--json", "-"]) in (2, 7)
    assert "\\udcff.spacepkg" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_an_interrupt_exits_130_and_leaves_a_resumable_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spacecompile", "render", "-o", "frames", "--frames", "500", "--size", "64"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline_s = time.monotonic() + 60
    while not list(tmp_path.rglob("*_img.jpg")) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130, talk
    assert "Traceback" not in talk
    assert not [path for path in tmp_path.rglob("*") if ".partial" in path.name or path.suffix == ".part"]
