from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spacecompile.cli import console
from spacecompile.cli.main import main
from spacecompile.contract import Manifest
from spacecompile.export.engine.plan_facts import EngineFacts
from spacecompile.export.engine.writer import FACTS_NAME, LAYERS_NAME, PLAN_NAME
from spacecompile.runtime.bundle import open_bundle

RTX = ("--engine", "tensorrt-rtx")
FOLDER = "tensorrt-rtx-fp32-sm80-and-later"
needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")


def files_under(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@needs_rtx
def test_every_variant_becomes_a_plan_with_its_facts(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "plans"
    before = files_under(tiny_bundle)
    assert main(["engine", str(tiny_bundle), "-o", str(output), *RTX, "--json", "-"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert "not certified" in shown.err
    bundle = open_bundle(tiny_bundle)
    assert len(document["plans"]) == len(bundle.manifest.variants) == len(list(output.iterdir()))
    for variant in bundle.manifest.variants:
        folder = output / f"tensorrt-rtx-{variant.name}-sm80-and-later"
        assert {path.name for path in folder.iterdir()} == {PLAN_NAME, FACTS_NAME, LAYERS_NAME}
        facts = msgspec.json.decode((folder / FACTS_NAME).read_bytes(), type=EngineFacts)
        plan = (folder / PLAN_NAME).read_bytes()
        assert (facts.plan_sha256, facts.plan_bytes) == (hashlib.sha256(plan).hexdigest(), len(plan))
        assert facts.onnx_sha256 == bundle.manifest.files[variant.path].sha256
        assert document["plans"][str(folder)] == json.loads((folder / FACTS_NAME).read_bytes())
        assert json.loads((folder / LAYERS_NAME).read_bytes())["network"]
    # A plan that was never run can't be certified, so it is no part of the bundle.
    assert files_under(tiny_bundle) == before


@needs_rtx
def test_a_plan_that_is_there_is_replaced_only_by_force(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["engine", str(tiny_bundle), "-o", str(tmp_path), *RTX, "--variant", "fp32"]
    assert main(command) == 0
    before = files_under(tmp_path)
    assert main([*command, "--compute-capability", "8.9"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {FOLDER, "tensorrt-rtx-fp32-sm89"}
    assert main(command) == 2
    assert "add --force to replace it" in capsys.readouterr().err
    assert files_under(tmp_path / FOLDER) == {name[len(FOLDER) + 1 :]: content for name, content in before.items()}
    assert main([*command, "--force", "--optimization-level", "1"]) == 0
    facts = json.loads((tmp_path / FOLDER / FACTS_NAME).read_bytes())
    assert facts["options"]["optimization_level"] == 1
    (tmp_path / FOLDER / "notes.txt").write_text("mine")
    assert main([*command, "--force"]) == 2
    assert "files that are no plan's" in capsys.readouterr().err


@needs_rtx
def test_ctrl_c_ends_the_build_and_leaves_nothing_unfinished(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def interrupting_bar() -> Iterator[Any]:
        def report(step: str, done: int, total: int) -> None:
            if step == "engine fp32-d4" and done:
                os.kill(os.getpid(), signal.SIGINT)

        yield report

    monkeypatch.setattr(console, "progress_bar", interrupting_bar)
    output = tmp_path / "plans"
    assert main(["engine", str(tiny_bundle), "-o", str(output), *RTX]) == 130
    assert "stopped" in capsys.readouterr().err
    # What was finished before stays.
    assert [path.name for path in output.iterdir()] == [FOLDER]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["--engine", "tensorflow"], 2, "choose one of tensorrt, tensorrt-rtx", id="engine"),
        pytest.param([*RTX, "--variant", "fp64"], 2, "has no variant 'fp64'", id="variant"),
        pytest.param([*RTX, "--variant", ","], 2, "with an empty name in it", id="empty variant"),
        pytest.param([*RTX, "--version-compatible"], 2, "can't do --version-compatible", id="option", marks=needs_rtx),
        pytest.param([*RTX, "--timing-cache", "t"], 2, "can't do --timing-cache", id="timing cache", marks=needs_rtx),
        pytest.param([*RTX, "--compute-capability", "6.1"], 2, "it knows 7.5", id="old GPU", marks=needs_rtx),
        pytest.param([*RTX, "--compute-capability", "six"], 2, "give MAJOR.MINOR", id="no GPU", marks=needs_rtx),
        pytest.param([*RTX, "--optimization-level", "9"], 2, "optimization-level", id="level"),
        pytest.param([*RTX, "--workspace-mb", "0"], 2, "workspace-mb", id="workspace"),
        pytest.param([], 2, "--engine", id="no engine named"),
    ],
)
def test_what_can_not_be_built_is_said_before_anything_is(
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["engine", str(tiny_bundle), "-o", "plans", *arguments]) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_a_missing_library_exits_with_3_and_the_command_that_adds_it(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", str(tiny_bundle), "-o", str(tmp_path), "--engine", "tensorrt", "--json", "-"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["exit_code"] == 3
    assert "pip install 'spacecompile[tensorrt]'" in error["message"]


@needs_rtx
def test_a_variant_without_a_file_of_its_own_is_left_out(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bf16.spacepkg"
    shutil.copytree(tiny_bundle, bundle)
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)
    fp32 = manifest.variants[0]
    bf16 = msgspec.structs.replace(fp32, name="bf16", precision="bf16")
    manifest = msgspec.structs.replace(manifest, variants=(fp32, bf16))
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    assert main(["engine", str(bundle), "-o", str(tmp_path / "plans"), *RTX]) == 0
    assert "left out: bf16" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "plans").iterdir()] == [FOLDER]
    assert main(["engine", str(bundle), "-o", str(tmp_path / "more"), *RTX, "--variant", "bf16"]) == 2
    assert "variant bf16 is the fp32 file" in capsys.readouterr().err
    manifest = msgspec.structs.replace(manifest, variants=(bf16,))
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    assert main(["engine", str(bundle), "-o", str(tmp_path / "none"), *RTX]) == 2
    assert "has only bf16" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("flag", ["--output", "--json", "--timing-cache"])
def test_nothing_is_put_into_the_bundle(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    places = {"--output": str(tmp_path / "plans"), flag: str(tiny_bundle / "more")}
    arguments = [word for pair in places.items() for word in pair]
    assert main(["engine", str(tiny_bundle), *arguments, *RTX]) == 2
    assert f"{flag} " in (said := " ".join(capsys.readouterr().err.split()))
    assert "lies in the bundle" in said


@needs_rtx
def test_a_graph_that_tensorrt_refuses_is_named_by_node_and_operator(
    illegal_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["engine", str(illegal_bundle), "-o", str(tmp_path / "plans"), *RTX]) == 4
    assert "TensorRT would refuse variant fp32: NonZero 'pick' is not in the portable set" in capsys.readouterr().err
    assert not (tmp_path / "plans").exists()
