from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from spacecompile.cli import doctor
from spacecompile.cli.main import main
from spacecompile.machine.doctor import Purpose


def test_the_rows_are_on_stdout_and_the_talk_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--for", "run"]) == 0
    stdout, stderr = capfd.readouterr()
    rows = {line.split("  ")[0]: line for line in stdout.splitlines() if line.strip()}
    assert {"Python", "base install", "backend onnxruntime", "cores", "CUDA driver", "disk"} <= rows.keys()
    assert " ok " in rows["backend onnxruntime"]
    assert "run works here" in stderr
    assert "next: spacecompile selftest" in stderr


def test_as_json_the_rows_are_all_that_is_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--for", "run", "--json", "-"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["purpose"], document["ok"]) == ("run", True)
    assert all(check["state"] in {"ok", "missing", "broken", "note"} for check in document["checks"])


def test_what_does_not_work_exits_3_with_its_command_and_one_json_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "onnxruntime.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert main(["doctor", "--for", "run", "--json", "-"]) == 3
    stdout, stderr = capfd.readouterr()
    document = json.loads(stdout)
    assert document["error"]["exit_code"] == 3
    assert not document["ok"]
    assert "pip install --force-reinstall onnxruntime" in stderr
    assert "next:" not in stderr
    assert main(["doctor", "--for", "run"]) == 3
    assert "  backend onnxruntime: pip install --force-reinstall onnxruntime" in capfd.readouterr().out.splitlines()


def test_an_unknown_purpose_is_a_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--for", "fly", "--json", "-"]) == 2
    assert "tensorrt-rtx" in json.loads(capfd.readouterr().out)["error"]["message"]


def test_every_extra_is_looked_at_without_loading_one_here(tmp_path: Path) -> None:
    """Stand-ins for the heavy packages, found by the probes alone, keep this quick."""
    for module in ("torch", "onnx", "timm", "onnxscript", "segmentation_models_pytorch", "matplotlib"):
        (tmp_path / f"{module}.py").write_text("raise ImportError('a stand-in')")
    code = (
        "import os, sys; os.environ['PYTHONPATH'] += os.pathsep + sys.argv[1]; from spacecompile.cli.main import main; "
        "code = main(['doctor', '--json', '-']); "
        "sys.stderr.write(f\"\\nloaded {[n for n in ('torch', 'onnx', 'onnxruntime', 'timm') if n in sys.modules]}\")"
    )
    environment = os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env=environment
    )
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.stderr.endswith("loaded []")
    assert checks["extra compile"]["state"] == "broken"
    assert "a stand-in" in checks["extra compile"]["found"]
    assert checks["extra train"]["state"] == "broken"
    assert checks["extra render"]["state"] == "ok"
    for extra in ("openvino", "tensorrt", "tensorrt-rtx"):
        assert checks[f"extra {extra}"]["state"] == "ok" or checks[f"extra {extra}"]["remedy"].startswith("pip install")
    assert json.loads(done.stdout)["ok"]


@pytest.mark.parametrize("purpose", get_args(Purpose))
def test_every_purpose_has_its_own_next_command(purpose: str) -> None:
    command = doctor._NEXT[purpose]
    assert command.split()[1] == {"run": "selftest"}.get(purpose, "engine" if "tensorrt" in purpose else purpose)
    assert purpose in command or purpose == "run"
