"""What a user installs: the wheel alone, in an empty environment, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [
    pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="packages are built in a clone"),
    pytest.mark.xdist_group("packaging"),
]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the wheel and the sdist of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def slim_bin(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a fresh environment that holds the wheel and its base dependencies only."""
    venv = tmp_path_factory.mktemp("slim") / "venv"
    uv = Path(sys.executable).with_name("uv")
    (wheel,) = dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    install = [uv, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True)
    return venv / "bin"


def run(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"spacecompile", "spacecompile-0.1.0.dist-info"}
    assert "spacecompile/py.typed" in names
    assert not [name for name in names if name.endswith((".pt", ".onnx"))]


def test_the_sdist_builds_the_same_package(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        top = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"spacecompile", "tests", "pyproject.toml"} <= top
    assert not top & {"train", "export", "runtime", "benchmarks", "checkpoints"}


def test_the_slim_install_has_no_compiler(slim_bin: Path, tmp_path: Path) -> None:
    code = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'timm') if u.find_spec(n)])"
    assert run([slim_bin / "python", "-c", code], tmp_path).stdout.strip() == "[]"


def test_the_slim_install_shows_help_for_every_command(slim_bin: Path, tmp_path: Path) -> None:
    done = run([slim_bin / "spacecompile", "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    commands = (
        "doctor",
        "render",
        "train",
        "build",
        "predict",
        "verify",
        "selftest",
        "inspect",
        "bench",
        "eval",
        "demo",
    )
    for command in commands:
        assert command in done.stdout
        assert run([slim_bin / "spacecompile", command, "--help"], tmp_path).returncode == 0


def test_the_slim_install_predicts_and_verifies(slim_bin: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    frames = sorted((tiny_bundle / "selftest").glob("*.png"))
    predict: list[str | Path] = [slim_bin / "spacecompile", "predict", tiny_bundle, *frames, "-o", tmp_path / "out"]
    done = run([*predict, "--json", "-"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["answers"]) == len(frames) > 0
    for command in ("verify", "selftest", "inspect"):
        looked = run([slim_bin / "spacecompile", command, tiny_bundle], tmp_path)
        assert looked.returncode == 0, looked.stderr


def test_the_slim_install_says_what_works_and_which_command_adds_the_rest(slim_bin: Path, tmp_path: Path) -> None:
    everything = run([slim_bin / "spacecompile", "doctor", "--json", "-"], tmp_path)
    assert everything.returncode == 0, everything.stderr
    checks = {check["name"]: check for check in json.loads(everything.stdout)["checks"]}
    assert checks["backend onnxruntime"]["state"] == "ok"
    assert (checks["extra compile"]["state"], checks["extra compile"]["remedy"]) == (
        "missing",
        "pip install 'spacecompile[compile]'",
    )
    build = run([slim_bin / "spacecompile", "doctor", "--for", "build"], tmp_path)
    assert build.returncode == 3
    assert "extra compile: pip install 'spacecompile[compile]'" in build.stdout
    assert "Traceback" not in build.stderr


def test_the_slim_install_says_how_to_get_the_compiler(slim_bin: Path, tmp_path: Path) -> None:
    (tmp_path / "ckpt.pt").write_bytes(b"anything")
    done = run([slim_bin / "spacecompile", "build", "ckpt.pt"], tmp_path)
    assert done.returncode == 3
    assert "pip install 'spacecompile[compile]'" in done.stderr
    assert "Traceback" not in done.stderr
