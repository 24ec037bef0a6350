from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from spacecompile.cli.main import main
from spacecompile.runtime.bundle import open_bundle


@pytest.fixture
def copied_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bundle, tmp_path / "copy.spacepkg")


def test_a_bundle_as_built_is_verified(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tiny_bundle), "--json", "-"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    manifest = open_bundle(tiny_bundle).manifest
    assert document["files"] == len(manifest.files)
    tested = dict.fromkeys(deviation["variant"] for deviation in document["selftest"])  # on one or two backends
    assert list(tested) == [v.name for v in manifest.variants]
    assert all(deviation["frames"] > 0 for deviation in document["selftest"])
    assert "every hash is right" in shown.err


def test_every_listed_file_is_watched(copied_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for relative_path in open_bundle(copied_bundle).manifest.files:
        path = copied_bundle / relative_path
        honest = path.read_bytes()
        path.write_bytes(honest[:-1] + bytes([honest[-1] ^ 1]))
        assert main(["verify", str(copied_bundle), "--no-selftest"]) == 7
        assert relative_path in capsys.readouterr().err.replace("\n", "")
        path.write_bytes(honest)
    assert main(["verify", str(copied_bundle), "--no-selftest"]) == 0


def test_a_file_that_was_added_is_refused(copied_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied_bundle / "variants" / "plugin.so").write_bytes(b"\x7fELF")
    assert main(["verify", str(copied_bundle)]) == 7
    assert "variants/plugin.so" in capsys.readouterr().err


def test_without_its_self_test_only_the_hashes_are_checked(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tiny_bundle), "--no-selftest", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["selftest"] == []


def test_what_is_no_bundle_gives_json_on_failure_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path), "--json", "-"]) == 7
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 7


def test_with_its_checkpoint_the_certificate_is_judged_again(
    tiny_bundle: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--no-selftest", "--checkpoint", str(tiny_checkpoint), "--parity-frames", "1", "--json", "-"]
    assert main(["verify", str(tiny_bundle), *flags]) == 0
    shown = capsys.readouterr()
    verdicts = json.loads(shown.out)["certificate"]["verdicts"]
    assert [(judged["variant"], judged["passed"]) for judged in verdicts] == [
        *(("fp32", True), ("fp32", True), ("fp32-d4", True), ("fp32-d4", True))
    ]
    said = " ".join(shown.err.split())
    assert "parity fp32-d4 on onnxruntime" in said
    assert "8 adversarial + 1 rendered frames, same class on 100.0%" in said


def test_a_certificate_that_fails_exits_5_and_the_document_holds_verdict_and_error(
    copied_bundle: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied_bundle / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["variants"][0]["tolerance"]["parts_iou_min"] = 1.5
    path.write_text(json.dumps(manifest))
    flags = ["--no-selftest", "--checkpoint", str(tiny_checkpoint), "--parity-frames", "0", "--json", "-"]
    assert main(["verify", str(copied_bundle), *flags]) == 5
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["error"]["exit_code"] == 5
    assert [judged["passed"] for judged in document["certificate"]["verdicts"]] == [False, False, True, True]
    assert "failed" in shown.err
    assert "next:" not in shown.err


def test_another_checkpoint_is_refused(
    tiny_bundle: Path, quick_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tiny_bundle), "--no-selftest", "--checkpoint", str(quick_checkpoint)]) == 7
    assert "was built from a checkpoint with" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("flags", [["--data", "frames"], ["--parity-frames", "4"]], ids=lambda flags: flags[0])
def test_flags_of_the_certificate_need_the_checkpoint(
    tiny_bundle: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tiny_bundle), *flags]) == 2
    assert "Add --checkpoint" in " ".join(capsys.readouterr().err.split())
