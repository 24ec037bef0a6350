"""The demo with a small checkpoint: the same steps on real parts, twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from spacecompile.benchmarks import source_checkpoint as checkpoints
from spacecompile.cli import demo as demo_module
from spacecompile.cli.main import main
from spacecompile.cli.reference_bundle import is_current


@pytest.fixture
def small_demo(tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demo folder in which the bundle is already there, as after an interrupted demo."""
    for name, value in {"NUM_FRAMES": 3, "NUM_PREDICTED": 2, "NUM_SCORED": 2, "FRAME_SIZE_PX": 128}.items():
        monkeypatch.setattr(demo_module, name, value)
    monkeypatch.setattr(demo_module, "BENCH_DURATION_S", 0.0)
    monkeypatch.setattr(demo_module, "BENCH_SAMPLES_MIN", 4)
    monkeypatch.setattr(checkpoints, "reference_checkpoint", lambda: tiny_checkpoint)
    shutil.copytree(tiny_bundle, tmp_path / "demo" / "reference.spacepkg")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "demo"


def test_the_demo_ends_with_pictures_a_report_and_the_next_command_and_is_idle_the_second_time(
    small_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "build skipped" in said
    for shown in ("demo/predictions", "demo/bench.html", "next: spacecompile predict demo/reference.spacepkg"):
        assert shown in said
    assert len(list((small_demo / "predictions").glob("*_overlay.jpg"))) == 2
    result = json.loads((small_demo / "bench.json").read_bytes())
    assert set(result["peers"]["plain-export"]["ratios"]) == {"fp32", "fp32-d4"}
    assert result["score"]["variants"]["fp32"]["frames"] == 2
    made = {path: path.stat().st_mtime_ns for path in small_demo.rglob("*.html")}

    assert main(["demo"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    for step in ("build", "predict", "bench"):
        assert f"{step} skipped" in said
    assert "0 rendered" in said
    assert {path: path.stat().st_mtime_ns for path in small_demo.rglob("*.html")} == made


def test_a_step_whose_product_is_gone_or_whose_inputs_changed_runs_again(tmp_path: Path) -> None:
    runs: list[str] = []
    product = tmp_path / "product"

    def make() -> None:
        runs.append("made")
        product.write_text("made")

    def step(inputs: list[int], *, forget: bool = False) -> int:
        state = demo_module._State.read(tmp_path / "state.json", forget=forget)
        state.step("step", inputs, product, make)
        return len(runs)

    assert [step([1]), step([1])] == [1, 1]
    assert step([2]) == 2
    product.unlink()
    assert step([2]) == 3
    assert step([2], forget=True) == 4
    (tmp_path / "state.json").write_text("{broken")
    assert step([2]) == 5


def test_a_bundle_is_current_only_for_its_own_checkpoint_whole_and_with_every_variant(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    assert is_current(tiny_bundle, tiny_checkpoint)
    assert not is_current(tiny_bundle, tiny_checkpoint, variants=("fp32", "fp16"))
    assert not is_current(tmp_path / "none.spacepkg", tiny_checkpoint)
    other = tmp_path / "other.pt"
    other.write_bytes(b"other weights")
    assert not is_current(tiny_bundle, other)
    damaged = tmp_path / "damaged.spacepkg"
    shutil.copytree(tiny_bundle, damaged)
    with (damaged / "variants" / "fp32" / "model.onnx").open("r+b") as file:
        file.write(b"\xff")
    assert not is_current(damaged, tiny_checkpoint)
