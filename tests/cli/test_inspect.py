from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spacecompile.cli.main import main
from spacecompile.runtime.bundle import open_bundle


def test_it_says_what_a_bundle_is(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_bundle)]) == 0
    shown = capsys.readouterr().out
    bundle = open_bundle(tiny_bundle)
    assert bundle.manifest_sha256 in shown
    for variant in bundle.manifest.variants:
        assert f"{variant.name}: {variant.path}" in shown
    for fact in (bundle.manifest.spec.encoder, *bundle.manifest.spec.classes, "M parameters", "GMAC (fvcore)"):
        assert fact in shown


def test_it_says_what_the_graph_files_hold(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_bundle)]) == 0
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for start in (
        "graph fp32: ",
        "graph fp32-d4: ",
        "input frame uint8 [128, 128, 3]",
        "outputs class_probs fp32 [10], parts uint8 [128, 128], box_xyxy fp32 [4], health fp32 [6]",
        "operators ",
        "weights fp32 100.0% (",
        "multiply-adds fp32 100.0%",
        "nodes that multiply Conv: fp32 ",
    ):
        assert any(line.startswith(start) for line in lines), start
    histogram = next(line for line in lines if line.startswith("operators "))
    assert "LayerNormalization" in histogram and "Softmax" in histogram
    assert "certified on onnxruntime" in shown


def test_it_says_what_every_pass_did_and_how_much_of_each_budget_is_left(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tiny_bundle)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    manifest = open_bundle(tiny_bundle).manifest
    for report in manifest.rewrites:
        (line,) = (line for line in lines if line.startswith(f"rewrite {report.name}: "))
        assert ("nothing to do" in line) != report.changed
    budgets = [line for line in lines if line.startswith("budget ")]
    left = 30 - manifest.cost.params / 1e6
    assert budgets[0].startswith("budget Multiply-adds ") and "of 100 GMAC" in budgets[0]
    assert budgets[1] == f"budget Parameters {manifest.cost.params / 1e6:.4f} of 30 M, {left:.4g} M left"


def test_a_pass_that_was_skipped_and_a_budget_that_is_exceeded_are_said(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy.spacepkg")
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["rewrites"][0] |= {"changed": False, "skipped": "changed the part logits"}
    manifest["cost"]["params"] = 31_000_000
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert main(["inspect", str(copy)]) == 0
    shown = capsys.readouterr().out
    assert f"{manifest['rewrites'][0]['name']} was skipped: it changed the part logits" in shown
    assert "Parameters 31.0000 of 30 M, exceeded by 1 M" in shown


def test_a_variant_narrows_the_listing(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_bundle), "--variant", "fp32-d4"]) == 0
    shown = capsys.readouterr().out
    assert "fp32-d4: " in shown
    assert "fp32: " not in shown
    assert main(["inspect", str(tiny_bundle), "--variant", "fp64", "--json", "-"]) == 2
    assert "fp32, fp32-d4" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_without_onnx_it_says_in_one_line_what_adds_the_graph_facts(tiny_bundle: Path) -> None:
    # A finder that hides the package, as in the slim install.
    code = (
        "import importlib.util as util, sys; real = util.find_spec; "
        "util.find_spec = lambda name, *rest: None if name == 'onnx' else real(name, *rest); "
        "from spacecompile.cli.main import main; "
        f"code = main(['inspect', {str(tiny_bundle)!r}]); print(code, 'onnx' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    graph_lines = [line for line in done.stdout.splitlines() if line.startswith("graph")]
    assert graph_lines == [
        "graph      graph facts need the package onnx; add it with: pip install 'spacecompile[compile]'"
    ]
    assert done.stdout.splitlines()[-1] == "0 False False"


def test_a_graph_file_that_was_changed_is_not_parsed(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy.spacepkg")
    graph = copy / "variants" / "fp32" / "model.onnx"
    graph.write_bytes(b"\x08" + graph.read_bytes()[1:][::-1])
    assert main(["inspect", str(copy)]) == 7
    assert "SHA-256" in capsys.readouterr().err


def test_as_json_it_is_the_manifest_with_budgets_and_graphs(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tiny_bundle), "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["manifest"] == json.loads((tiny_bundle / "manifest.json").read_bytes())
    assert document["extra_files"] == []
    assert [line["key"] for line in document["budget"]] == ["gmacs_max", "mparams_max"]
    graphs = document["graphs"]
    assert list(graphs) == ["fp32", "fp32-d4"]
    assert graphs["fp32"]["mac_shares"] == {"fp32": 1.0}
    assert sum(node["macs"] for node in graphs["fp32"]["mac_nodes"]) == graphs["fp32"]["macs"]


def test_what_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 7
    assert "manifest.json" in capsys.readouterr().err


def test_a_looser_tolerance_is_said_in_full(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy.spacepkg")
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["variants"][0]["tolerance"] |= {
        "parts_iou_min": 0.8, "parts_iou_mean_min": 0.98, "box_px_max": 2, "box_share_min": 0.9, "box_px_worst": 8,
        "score_drop_max": 0.003, "adversarial": False,
    }  # fmt: skip
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert main(["inspect", str(copy), "--variant", "fp32"]) == 0
    assert (
        "parts IoU 0.8, mean 0.98, box 2 px on 90% of the frames, 8 px on any, S_final drop 0.003, adversarial frames "
        "only sound"
    ) in capsys.readouterr().out
