"""`bench` with its limits, layers and scaling, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from spacecompile.benchmarks import suite
from spacecompile.benchmarks.result_records import read_result
from spacecompile.cli.main import main
from spacecompile.errors import MissingPartError

QUICK = (
    *("--no-peers", "--variant", "fp32", "--threads", "1", "--starts", "0", "--no-from-file"),
    *("--duration", "0", "--samples", "2", "--warmup", "1", "--warmup-seconds", "0"),
)


def test_a_profile_is_in_the_results_and_on_the_screen(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny_bundle), *QUICK, "--profile", "--json", "-"]) == 0
    captured = capsys.readouterr()
    roofline = read_result(captured.out.encode()).roofline
    assert roofline.profiles["fp32"].macs_matched == pytest.approx(1.0)  # type: ignore[union-attr]
    said = " ".join(captured.err.split())
    for words in ("Roofline: engine alone", "Where fp32's time goes", "slowest layers", "peak GMAC/s"):
        assert words in said


def test_without_the_compiler_it_says_what_adds_the_roofline(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(extra: str, command: str) -> None:
        raise MissingPartError(f"{command} needs onnx. Run: pip install 'spacecompile[{extra}]'")

    monkeypatch.setattr(suite, "require_extra", missing)
    assert main(["bench", str(tiny_bundle), *QUICK, "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert "spacecompile[compile]" in str(read_result(captured.out.encode()).roofline_note)
    assert "spacecompile[compile]" in " ".join(captured.err.split())


def test_scaling_without_the_checkpoint_is_refused_before_anything_is_measured(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spacecompile.benchmarks.run.find_checkpoint", lambda *_, **__: None)
    assert main(["bench", str(tiny_bundle), *QUICK, "--scaling"]) == 2
    assert "--scaling builds other sizes" in " ".join(capsys.readouterr().err.split())
