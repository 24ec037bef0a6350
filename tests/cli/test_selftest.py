from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spacecompile.cli.main import main
from spacecompile.runtime.bundle import open_bundle


@pytest.fixture
def copied_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bundle, tmp_path / "copy.spacepkg")


def test_every_variant_answers_the_bundles_frames(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", str(tiny_bundle), "--threads", "1", "--json", "-"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    manifest = open_bundle(tiny_bundle).manifest
    tested = dict.fromkeys(deviation["variant"] for deviation in document["selftest"])  # on one or two backends
    assert list(tested) == [v.name for v in manifest.variants]
    assert document["manifest_sha256"] in shown.err.replace("\n", "")
    for variant in manifest.variants:
        assert document["files"][variant.path] == manifest.files[variant.path].sha256
        assert f"self-test {variant.name} on onnxruntime" in shown.err


def test_only_the_files_that_it_reads_are_hashed(copied_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = copied_bundle / "reports" / "parity.json"
    report.write_bytes(report.read_bytes()[::-1])
    assert main(["selftest", str(copied_bundle), "--threads", "1"]) == 0
    graph = copied_bundle / "variants" / "fp32" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    assert main(["selftest", str(copied_bundle), "--threads", "1"]) == 7
    assert "variants/fp32/model.onnx" in capsys.readouterr().err.replace("\n", "")


def test_a_variant_beyond_its_tolerance_exits_5_with_json(
    copied_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied_bundle / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["variants"][0]["tolerance"]["parts_iou_min"] = 1.5
    path.write_text(json.dumps(manifest))
    assert main(["selftest", str(copied_bundle), "--threads", "1", "--json", "-"]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 5


def test_no_compiler_is_loaded(tiny_bundle: Path) -> None:
    code = (
        "import sys; from spacecompile.cli.main import main; "
        f"code = main(['selftest', {str(tiny_bundle)!r}, '--threads', '1']); "
        "print(code, [name for name in ('torch', 'onnx', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"


@pytest.mark.parametrize("command", ["selftest", "verify", "inspect"])
def test_the_document_may_not_lie_in_the_bundle(
    command: str, copied_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(copied_bundle), "--json", str(copied_bundle / "reports" / "new.json")]) == 2
    assert "lies in the bundle" in " ".join(capsys.readouterr().err.split())
    assert not (copied_bundle / "reports" / "new.json").exists()


@pytest.mark.parametrize("command", ["selftest", "verify"])
def test_what_is_not_tested_is_in_the_document_and_a_note(
    command: str, copied_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied_bundle / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["variants"][1]["certified"] = ["caffe"]
    path.write_text(json.dumps(manifest))
    flags = ["--threads", "1", "--backend", "onnxruntime", "--json", "-"]
    assert main([command, str(copied_bundle), *flags]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert [it["variant"] for it in document["selftest"]] == ["fp32"]
    (item,) = document["not_tested"]
    assert (item["variant"], item["backend"]) == ("fp32-d4", "onnxruntime")
    assert "note variant fp32-d4 is not tested on onnxruntime" in shown.err
    if command == "selftest":
        assert "variants/fp32-d4/model.onnx" not in document["files"]
    assert main([command, str(copied_bundle), *flags, "--variant", "fp32-d4"]) == 3
