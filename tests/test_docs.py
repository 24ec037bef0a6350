"""The documents: commands and examples run, numbers are those of the committed results, files exist."""

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

from spacecompile.benchmarks.report.readme_tables import BEGIN, END, results_block, summary_block, with_results
from spacecompile.benchmarks.result_records import read_result
from spacecompile.cli.main import main
from spacecompile.contract import ModelSpec
from spacecompile.data import RenderSettings, render_dataset
from spacecompile.errors import DataError
from spacecompile.network.checkpoint import save_checkpoint
from spacecompile.network.model import MultiTaskNetwork

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [
    pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the documents are read in a clone"),
    pytest.mark.xdist_group("docs"),
]

RESULTS = ROOT / "spacecompile" / "benchmarks" / "results"
GUIDES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("README.md"), *ROOT.glob("docs/tutorials/*.md"), *ROOT.glob("docs/how_to/*.md"))
)

SMALLER = {
    "render": "--size 128 --workers 1",
    "train": "--imgsz 64 --frame 128x128 --epochs 1 --batch-size 8 --threads 1 --val-frames 2 --force",
    "calibrate": "--force",
    "build": "--parity-frames 2 --force",
    "bench": "--duration 0 --samples 2 --warmup 1 --limit 2 --threads 1 --starts 1 --peer plain-export --force",
    "predict": "--force",
    "data": "--force",
}
"""What makes a command quick, and lets it be typed again; otherwise it is run as it stands."""

NEED_A_GPU = ("rebuild", "prove")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def commands(document: str) -> list[str]:
    """Lines of indented or fenced blocks that call spacecompile, in order."""
    fenced = re.findall(r"^```bash\n(.*?)^```", text_of(document), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += [line[4:] for line in text_of(document).splitlines() if line.startswith("    spacecompile ")]
    order = {line: place for place, line in enumerate(text_of(document).replace("\n    ", "\n").splitlines())}
    return sorted((line for line in lines if line.startswith("spacecompile ")), key=lambda line: order.get(line, 0))


def examples(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text_of(document), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def desk(
    tiny_bundle: Path, spark_checkpoint: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder that holds what the documents' earlier steps made, small."""
    shutil.copytree(tiny_bundle, tmp_path / "net.spacepkg")
    shutil.copytree(frames, tmp_path / "frames")
    for name in ("checkpoints/best.pt", "checkpoints/reference.pt", "runs/first/model.pt", "runs/calibrated.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(spark_checkpoint, tmp_path / name)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "budgets.toml", tmp_path / "docs" / "budgets.toml")
    for name in ("old.json", "new.json"):
        shutil.copy(newest_results(), tmp_path / name)
    frame_HWC = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(frame_HWC).save(tmp_path / "frame.png")
    model = smp.FPN("mobilenet_v2", encoder_weights=None, classes=2, aux_params={"classes": 3})
    state = {f"net.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "epoch=9.ckpt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def spark_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network of SPARK's classes that compiles in seconds."""
    spec = ModelSpec(encoder="tu-test_resnet", encoder_depth=4, input_size_px=(64, 64), frame_size_px=(128, 128))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MultiTaskNetwork(spec).eval()
    path = tmp_path_factory.mktemp("checkpoint") / "net.pt"
    save_checkpoint(path, network, training={})
    return path


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("desk") / "frames"
    for split in ("train", "val"):
        render_dataset(root, RenderSettings(num_frames=20, seed=5, split=split, frame_size_px=128))
    return root


@pytest.mark.parametrize("document", [name for name in GUIDES if commands(name)])
def test_the_commands_of_a_document_run_one_after_another(document: str, desk: Path) -> None:
    ran = 0
    for line in commands(document):
        words = shlex.split(line, comments=True)[1:]
        if words[0] in NEED_A_GPU:
            continue
        arguments = words + shlex.split(SMALLER.get(words[0], ""))
        if words[0] == "render":  # what is there already has another seed and number of frames
            split = words[words.index("--split") + 1] if "--split" in words else "train"
            quick = shlex.split(SMALLER["render"])
            arguments = ["render", "-o", "rendered", "--frames", "10", "--split", split, *quick]
        if "epoch=9.ckpt" in words:
            arguments += ["--imgsz", "64", "--frame", "128x128"]
        if "fp32,fp16,bf16,int8" in words:  # int8 needs more frames and minutes
            arguments[arguments.index("fp32,fp16,bf16,int8")] = "fp32,fp16"
        if words[0] == "bench" and "--budget" in words:  # limits that two samples can't be judged by
            (desk / "docs" / "budgets.toml").write_text("gmacs_max = 100.0\n", encoding="utf-8")
        assert main(arguments) == 0, line
        ran += 1
    assert ran or all(shlex.split(line)[1] in NEED_A_GPU for line in commands(document))


@pytest.mark.parametrize("document", [name for name in GUIDES if examples(name)])
def test_the_examples_of_a_document_run(document: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for code in examples(document):
        names: dict[str, Any] = {}
        exec(compile(code, document, "exec"), names)  # our own file
        if "answer" in names:
            assert names["body_HW"].shape == names["panel_HW"].shape == (128, 128)
    assert capsys.readouterr().out


def newest_results() -> Path:
    return sorted(RESULTS.glob("reference_*.json"))[-1]


@pytest.mark.parametrize(("document", "block"), [("README.md", summary_block), ("docs/results.md", results_block)])
def test_the_tables_are_those_of_the_newest_results(document: str, block: Any) -> None:
    written = block(read_result(newest_results().read_bytes()))
    assert with_results(text_of(document), written) == text_of(document), "run `make docs`"


@pytest.mark.parametrize(
    "document",
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/invariants.md", "docs/decisions/README.md"],
)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text, folder = text_of(document), (ROOT / document).parent
    linked = set(re.findall(r"\]\(([\w./-]+)\)", text))
    named = set(re.findall(r"`((?:spacecompile|tests|checkpoints|docs)/[\w./-]+)`", text))
    assert linked | named
    assert not [path for path in sorted(linked) if not (folder / path).exists()]
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(DataError, match="results: begin"):
        with_results("# nothing", "block")
    assert with_results(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\n\nnew\n\n{END}\nb"
