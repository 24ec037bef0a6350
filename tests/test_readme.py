"""The README: its numbers come from the committed results, its commands and files exist."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image

from spacecompile.benchmarks.report.readme_tables import BEGIN, END, results_block, with_results
from spacecompile.benchmarks.result_records import read_result
from spacecompile.cli.main import app, main
from spacecompile.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the README is read in a clone")


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def newest_results() -> Path:
    return sorted((ROOT / "spacecompile" / "benchmarks" / "results").glob("reference_*.json"))[-1]


def test_the_tables_are_those_of_the_newest_results() -> None:
    block = results_block(read_result(newest_results().read_bytes()))
    assert with_results(readme(), block) == readme(), "run `make docs`"


def test_every_command_is_listed() -> None:
    listed = set(re.findall(r"^\| `([a-z]+)` \|", readme(), flags=re.MULTILINE))
    registered = {str(command.name) for command in app.registered_commands}
    registered |= {str(group.name or group.typer_instance.info.name) for group in app.registered_groups}
    assert listed == registered


def blocks() -> list[str]:
    """The README's commands, in order; a block is what stands indented by four."""
    return [line[4:] for line in readme().splitlines() if line.startswith("    ")]


def test_the_commands_under_use_do_what_they_say_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Smaller and shorter, otherwise as they stand.
    smaller = {
        "render": "--size 128 --workers 1",
        "train": "--imgsz 64 --frame 128x128 --epochs 1 --batch-size 8 --threads 1 --val-frames 2",
        "build": "--parity-frames 2",
        "bench": "--duration 0 --samples 2 --warmup 1 --limit 2 --threads 1 --starts 1 --peer plain-export",
    }
    monkeypatch.chdir(tmp_path)
    model = smp.FPN("mobilenet_v2", encoder_weights=None, classes=2, aux_params={"classes": 3})
    torch.save({"state_dict": {f"net.{key}": value for key, value in model.state_dict().items()}}, "epoch=9.ckpt")
    done = []
    for line in blocks():
        words = shlex.split(line, comments=True)
        if words[:1] != ["spacecompile"]:
            continue
        numbers = {"2000": "20", "200": "10"}
        arguments = [numbers.get(word, word) for word in words[1:]] + shlex.split(smaller.get(words[1], ""))
        if "epoch=9.ckpt" in words:
            arguments += ["--imgsz", "64", "--frame", "128x128"]
        if words[1] == "predict":
            shutil.copytree(tmp_path / "frames" / "images" / "Cheops" / "val", tmp_path / "photos")
        assert main(arguments) == 0, line
        done.append(words[1])
    assert done == [
        *("render", "render", "data", "data", "train", "calibrate", "build"),
        *("predict", "bench", "build", "train", "inspect", "engine"),
    ]
    products = (
        "runs/first/model.pt",
        "net.spacepkg/manifest.json",
        "out/answers.json",
        "out/submission.zip",
        "bench.html",
    )
    for product in (*products, "epoch=9.spacepkg/manifest.json"):
        assert (tmp_path / product).is_file()


def test_the_python_example_runs(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", readme(), flags=re.MULTILINE | re.DOTALL)
    shutil.copytree(tiny_bundle, tmp_path / "net.spacepkg")
    frame_HWC = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(frame_HWC).save(tmp_path / "frame.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)  # our own file
    assert names["body_HW"].shape == names["panel_HW"].shape == (128, 128)
    assert capsys.readouterr().out.startswith(names["answer"].class_name)


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md"])
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"\]\(([\w./-]+)\)", text)) | set(
        re.findall(r"`((?:spacecompile|tests|checkpoints|docs)/[\w./-]+)`", text)
    )
    assert named
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(DataError, match="results: begin"):
        with_results("# nothing", "block")
    assert with_results(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\n\nnew\n\n{END}\nb"
