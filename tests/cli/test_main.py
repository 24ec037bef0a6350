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

from spacecompile.cli.main import main

COMMANDS = ("render", "train", "build", "inspect", "verify", "predict", "eval", "bench", "demo")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: spacecompile " + command in capsys.readouterr().out


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
