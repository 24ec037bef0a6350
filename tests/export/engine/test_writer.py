from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from spacecompile.contract import ModelSpec
from spacecompile.errors import OutputError
from spacecompile.export.engine import writer as engine_writer
from spacecompile.export.engine.build_plan import EngineBuild, build_engine
from spacecompile.export.engine.writer import FACTS_NAME, LAYERS_NAME, PLAN_NAME, check_engine_folder, write_engine
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.export.sealed.to_onnx import export_onnx
from spacecompile.runtime.cuda.engine_api import EngineApi

SPEC = ModelSpec(input_size_px=(64, 64), frame_size_px=(128, 128))


@pytest.fixture
def built(rtx: EngineApi, small_network: nn.Module) -> EngineBuild:
    """A plan of the small network."""
    return build_engine(export_onnx(SealedGraph(small_network, SPEC), SPEC.frame_size_px, facts={}), rtx)


def test_a_plan_is_written_as_the_library_made_it(built: EngineBuild, tmp_path: Path) -> None:
    write_engine(tmp_path / "plan", built)
    assert {path.name for path in tmp_path.iterdir()} == {"plan"}
    assert (tmp_path / "plan" / PLAN_NAME).read_bytes() == built.plan
    assert json.loads((tmp_path / "plan" / FACTS_NAME).read_bytes())["plan_bytes"] == len(built.plan)
    layers = json.loads((tmp_path / "plan" / LAYERS_NAME).read_bytes())
    assert [layer["name"] for layer in layers["network"]] == [layer.name for layer in built.layers.network]


def test_a_plan_that_can_not_be_written_leaves_the_earlier_one_whole(
    built: EngineBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_engine(tmp_path / "plan", built)
    monkeypatch.setattr(engine_writer, "LAYERS_NAME", "x" * 300)  # no file system takes such a name
    with pytest.raises(OutputError, match="can't write"):
        write_engine(tmp_path / "plan", built)
    assert {path.name for path in tmp_path.iterdir()} == {"plan"}
    assert {path.name for path in (tmp_path / "plan").iterdir()} == {PLAN_NAME, FACTS_NAME, LAYERS_NAME}


def folder(path: Path) -> None:
    path.mkdir()


def file(path: Path) -> None:
    path.write_text("mine")


def link(path: Path) -> None:
    path.symlink_to(path.parent)


def plan(path: Path) -> None:
    path.mkdir()
    (path / PLAN_NAME).write_bytes(b"plan")


def foreign(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("make", "force", "message"),
    [
        pytest.param(folder, False, "exists. Choose another --output, or add --force", id="a folder"),
        pytest.param(plan, False, "add --force to replace it", id="a plan"),
        pytest.param(foreign, True, "files that are no plan's", id="foreign files, forced"),
        pytest.param(file, True, "is not a folder", id="a file, forced"),
        pytest.param(link, True, "is not a folder", id="a link, forced"),
    ],
)
def test_what_is_in_the_way_is_refused_before_the_work(
    tmp_path: Path, make: Callable[[Path], None], force: bool, message: str
) -> None:
    make(tmp_path / "plan")
    with pytest.raises(OutputError, match=message):
        check_engine_folder(tmp_path / "plan", force=force)


@pytest.mark.parametrize("make", [folder, plan])
def test_a_plan_or_an_empty_folder_may_be_replaced_by_force(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "plan")
    check_engine_folder(tmp_path / "plan", force=True)


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file is not a folder"):
        check_engine_folder(tmp_path / "file" / "plan", force=False)
