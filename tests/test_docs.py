"""The documents: commands and examples run, numbers are those of the committed results, what is named exists."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from typer.main import get_command

from spacecompile.benchmarks.report.readme_tables import BEGIN, END, results_block, summary_block, with_results
from spacecompile.benchmarks.result_records import read_result
from spacecompile.cli.main import app, main
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
DECISIONS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.glob("docs/decisions/*.md")
    if path.name not in ("README.md", "rejected.md")
)
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("checkpoints/*.md"), *ROOT.glob("docs/**/*.md"))
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

BASH, PYTHON = ("bash", ""), ("python", "")
BASH_ON_A_GPU, PYTHON_ON_A_GPU = ("bash", "needs a GPU"), ("python", "needs a GPU")
BASH_OF_TWO = ("bash", "two processes")
TEXT = ("text", "")
"""Language and title of the blocks that there are. What needs a GPU is left to `-m gpu`, two processes to `-m slow`;
the Python examples for a GPU run on a fake one in `tests/runtime/cuda/test_twenty_lines.py`. A block whose title is a
path is an excerpt of that file."""


class Block(NamedTuple):
    """What stands between two fences."""

    kind: tuple[str, str]
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Words of each command line, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks_of(document: str) -> list[Block]:
    found = re.finditer(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', text_of(document), flags=re.M | re.S)
    return [Block((match[1], match[2] or ""), match[3]) for match in found]


def documents_with(kind: tuple[str, str]) -> list[str]:
    return [name for name in DOCUMENTS if any(block.kind == kind for block in blocks_of(name))]


def commands_of(document: str, kind: tuple[str, str]) -> list[list[str]]:
    return [words for block in blocks_of(document) if block.kind == kind for words in block.commands]


def indented_commands(document: str) -> list[list[str]]:
    """Commands in indented blocks, such as those that made the checkpoints, and in the page of all commands."""
    text = re.sub(r"^```.*?^```$", "", text_of(document), flags=re.M | re.S).replace("\\\n", " ")
    lines = re.findall(r"^    ((?:spacecompile|torchrun) .*)$", text, flags=re.M)
    return [shlex.split(line, comments=True) for line in lines]


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


def run(words: list[str], desk: Path) -> None:
    """A command of a document, made small; what would install or set up is looked up instead."""
    if words[0] == "pip":
        declared = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
        extras = re.findall(r"spacecompile\[([\w,-]+)\]", " ".join(words))
        assert {extra for listed in extras for extra in listed.split(",")} <= declared.keys()
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", text_of("Makefile"), flags=re.M), words
    else:
        assert words[0] == "spacecompile"
        assert main(smaller(words[1:], desk)) == 0, words


def smaller(words: list[str], desk: Path) -> list[str]:
    """Arguments that ask for the same in seconds."""
    arguments = words + shlex.split(SMALLER.get(words[0], ""))
    if words[0] == "render":  # what is there already has another seed and number of frames
        split = words[words.index("--split") + 1] if "--split" in words else "train"
        arguments = ["render", "-o", "rendered", "--frames", "10", "--split", split, *shlex.split(SMALLER["render"])]
    if "epoch=9.ckpt" in words:
        arguments += ["--imgsz", "64", "--frame", "128x128"]
    if "fp32,fp16,bf16,int8" in words:  # int8 needs more frames and minutes
        arguments[arguments.index("fp32,fp16,bf16,int8")] = "fp32,fp16"
    if words[0] == "bench" and "--budget" in words:  # limits that two samples can't be judged by
        (desk / "docs" / "budgets.toml").write_text("gmacs_max = 100.0\n", encoding="utf-8")
    return arguments


@pytest.mark.parametrize("document", documents_with(BASH))
def test_the_commands_of_a_document_run_one_after_another(document: str, desk: Path) -> None:
    for words in commands_of(document, BASH):
        run(words, desk)


@pytest.mark.slow
@pytest.mark.parametrize("document", documents_with(BASH_OF_TWO))
def test_commands_of_several_processes_run(document: str, desk: Path) -> None:
    for launcher, *words in commands_of(document, BASH_OF_TWO):
        assert launcher == "torchrun"
        place = words.index("spacecompile") + 1
        small = [*words[:place], *smaller(words[place:], desk), "--device", "cpu"]
        subprocess.run([sys.executable, "-m", "torch.distributed.run", *small], cwd=desk, check=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that PyTorch can use")
@pytest.mark.parametrize("document", documents_with(BASH_ON_A_GPU))
def test_commands_that_need_a_gpu_run(document: str, desk: Path) -> None:
    for words in commands_of(document, BASH_ON_A_GPU):
        run(words, desk)


def test_every_block_is_of_a_kind_that_a_test_knows() -> None:
    blocks = [block for name in DOCUMENTS for block in blocks_of(name)]
    excerpts = [block for block in blocks if block.kind[1].endswith(".py")]
    kinds = {block.kind for block in blocks if block not in excerpts}
    assert kinds == {BASH, PYTHON, BASH_ON_A_GPU, PYTHON_ON_A_GPU, BASH_OF_TWO, TEXT}
    assert excerpts
    for block in excerpts:
        assert "".join(block.text.split()) in "".join(text_of(block.kind[1]).split()), "not what the file says"
    assert all(len(re.findall("^```", text_of(name), flags=re.M)) == 2 * len(blocks_of(name)) for name in DOCUMENTS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_name_is_in_the_file_that_stands_behind_it(document: str) -> None:
    for name, path in re.findall(r"`(\w+)`\s+\(`(\w+/[\w/]+\.py)`\)", text_of(document)):
        assert re.search(rf"\b{name}\b", text_of(path)), (name, path)


@pytest.mark.parametrize("document", ["docs/cli.md", "checkpoints/README.md", *documents_with(BASH_ON_A_GPU)])
def test_commands_that_are_not_run_are_understood(document: str) -> None:
    found = indented_commands(document) + commands_of(document, BASH_ON_A_GPU)
    assert found
    for line in found:
        command: Any = get_command(app)
        words = line[line.index("spacecompile") + 1 :]
        while words and words[0] in getattr(command, "commands", {}):
            command, words = command.commands[words[0]], words[1:]
        assert not hasattr(command, "commands"), line
        command.make_context(command.name, words)


def test_every_command_that_a_sentence_names_exists() -> None:
    command: Any = get_command(app)
    named = {name for document in DOCUMENTS for name in re.findall(r"`spacecompile ([a-z]+)", text_of(document))}
    assert "prove" in named
    assert named <= command.commands.keys()


def test_the_page_of_commands_is_current() -> None:
    assert runpy.run_path(str(ROOT / ".ci" / "cli_pages.py"))["page"]() == text_of("docs/cli.md"), "run `make docs`"


@pytest.mark.parametrize("document", documents_with(PYTHON))
def test_the_examples_of_a_document_run(document: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for code in [block.text for block in blocks_of(document) if block.kind == PYTHON]:
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


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    text, folder = text_of(document), (ROOT / document).parent
    linked = set(re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text))
    named = set(re.findall(r"`((?:spacecompile|tests|checkpoints)/[\w./-]+|[\w/]+/[\w./]+\.py)`", text))
    assert not [path for path in sorted(linked) if not (folder / path).exists()]
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]


@pytest.mark.parametrize("document", DECISIONS)
def test_every_decision_has_its_parts_in_order_and_is_counted(document: str) -> None:
    entries = re.split(r"^## ", text_of(document), flags=re.M)[1:]
    for entry in entries:
        assert re.match(r".+\n\n\*\d{4}-\d\d-\d\d\*\n\n\*\*Context", entry), entry
        parts = re.findall(r"^\*\*(\w+)\.\*\* [\w`]", entry, flags=re.M)
        assert parts[:3] == ["Context", "Decision", "Consequence"], entry
        assert parts[3:] in ([], ["Numbers"]), entry
    assert f"({Path(document).name}) | {len(entries)} |" in text_of("docs/decisions/README.md")


def test_the_page_of_python_names_lists_what_is_public_and_nothing_else() -> None:
    packages = ["spacecompile", *(f"spacecompile.{name}" for name in ("runtime", "train", "data", "export"))]
    names = {(package, name) for package in packages for name in import_module(package).__all__}
    listed = re.findall(r"^::: (\S+)\.(\w+)$", text_of("docs/api.md"), flags=re.M)
    assert set(listed) <= names
    public = {id(getattr(import_module(package), name)) for package, name in names - {("spacecompile", "__version__")}}
    assert sorted(id(getattr(import_module(package), name)) for package, name in listed) == sorted(public)


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install 'spacecompile[dev]'")
def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    pages = sorted(tmp_path.rglob("*.html"))
    assert {"api.html", "cli.html", "index.html"} <= {path.name for path in pages}
    remote = (
        r"<(?!a\b)\w+ [^>]*\b(?:src|href|srcset)=[\"']?(?:https?:)?//|url\([\"']?(?:https?:)?//|@import\s*[\"']http"
    )
    for path in (*pages, *tmp_path.rglob("*.css")):
        assert not re.search(remote, path.read_text(encoding="utf-8")), path


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(DataError, match="results: begin"):
        with_results("# nothing", "block")
    assert with_results(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\n\nnew\n\n{END}\nb"
