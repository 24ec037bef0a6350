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
    assert [deviation["variant"] for deviation in document["selftest"]] == [v.name for v in manifest.variants]
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
