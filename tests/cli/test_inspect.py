from __future__ import annotations

import json
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


def test_as_json_it_is_the_manifest(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_bundle), "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["manifest"] == json.loads((tiny_bundle / "manifest.json").read_bytes())
    assert document["extra_files"] == []


def test_what_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 7
    assert "manifest.json" in capsys.readouterr().err
