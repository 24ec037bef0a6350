from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest

from spacecompile import extras
from spacecompile.cli.main import main
from spacecompile.cli.show import target as inspect_target
from spacecompile.runtime.bundle import open_bundle


def test_a_legal_bundle_is_said_to_be_legal(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_bundle), "--target", "tensorrt"]) == 0
    lines = capsys.readouterr().out.splitlines()
    bundle = open_bundle(tiny_bundle)
    assert len(lines) == len(bundle.manifest.variants)
    for variant, line in zip(bundle.manifest.variants, lines, strict=True):
        nodes = onnx.load_from_string(bundle.read(variant.path)).graph.node
        assert line.startswith(f"{variant.name}: legal: {len(nodes)} nodes of {len({n.op_type for n in nodes})} ops")
        if find_spec("tensorrt_rtx"):
            assert "the parser of TensorRT-RTX" in line


def test_every_node_that_would_be_refused_is_named(illegal_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(illegal_bundle), "--target", "tensorrt"]) == 4
    shown = capsys.readouterr()
    assert "NonZero" in shown.out
    assert "pick" in shown.out
    assert "fp32-d4: legal" in shown.out
    assert "tensorrt would refuse what is named above" in shown.err


def test_the_report_is_json_too(illegal_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(illegal_bundle), "--target", "tensorrt", "--json", "-"]) == 4
    document = json.loads(capsys.readouterr().out)
    assert (document["target"], document["legal"]) == ("tensorrt", False)
    report = document["variants"]["fp32"]
    assert {"op": "NonZero", "node": "pick", "reason": "is not in the portable set"} in report["illegal"]
    assert report["ops"]["NonZero"] == 1
    assert document["variants"]["fp32-d4"]["illegal"] == []


def test_a_target_that_nobody_knows_is_refused(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_bundle), "--target", "tpu"]) == 2
    assert "choose one of tensorrt" in capsys.readouterr().err


def test_a_variant_narrows_the_judgement(illegal_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(illegal_bundle), "--target", "tensorrt", "--variant", "fp32-d4"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("fp32-d4: legal")


def test_without_onnx_the_command_that_adds_it_is_named(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inspect_target, "find_spec", lambda name: None if name == "onnx" else object())
    assert main(["inspect", str(tiny_bundle), "--target", "tensorrt"]) == 3
    assert "pip install onnx" in capsys.readouterr().err


def test_of_the_compiler_only_onnx_is_needed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    assert main(["inspect", str(tiny_bundle), "--target", "tensorrt"]) == 0
