"""`compare` as a user runs it, on the committed results files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spacecompile.benchmarks import result_records as records
from spacecompile.cli.main import main

RESULTS = Path(records.__file__).parent / "results"
OLD, NEW = (str(RESULTS / f"reference_cpu_2026-11-{day}.json") for day in (22, 25))


def test_a_faster_build_is_told_as_better(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", OLD, NEW, "--json", "-"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    (fp32,) = [change for change in document["changes"] if change["what"] == "fp32, app, median"]
    assert (fp32["verdict"], fp32["interval"][1] < 0) == ("better", True)
    assert "99 % sure" in captured.err
    assert "processor: AMD EPYC in the old file" in " ".join(captured.err.split())


def test_the_other_way_round_it_exits_6_with_one_document(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["compare", NEW, OLD, "--fail-on", "5%", "--json", "-"]) == 6
    captured = capsys.readouterr()
    assert "fp32, app, median" in json.loads(captured.out)["failed"]
    assert "BudgetError" in captured.err
    assert main(["compare", NEW, OLD, "--fail-on", "5%", "--json", str(tmp_path / "c.json")]) == 6
    assert json.loads((tmp_path / "c.json").read_bytes())["fail_on"] == 0.05


def test_peers_of_another_network_are_no_measure_of_the_machine_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(Path(NEW).read_bytes())
    document["subject"]["source_sha256"] = "f" * 64
    (tmp_path / "other.json").write_text(json.dumps(document))
    assert main(["compare", NEW, str(tmp_path / "other.json"), "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["drift"] == {}
    said = " ".join(captured.err.split())
    assert "how far the machine moved is unknown: their peers ran different networks" in said
    assert "the machine: peer" not in said
    document["environment"]["cpu"] = "Ground Processor 1"
    (tmp_path / "elsewhere.json").write_text(json.dumps(document))
    assert main(["compare", NEW, str(tmp_path / "elsewhere.json")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "not comparable" in said
    assert "compared as they are" not in said
    assert main(["compare", NEW, NEW]) == 0
    assert "the machine: peer plain-export took +0.0% time" in " ".join(capsys.readouterr().err.split())


def test_a_file_equals_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", NEW, NEW, "--fail-on", "0.1%", "--json", "-"]) == 0
    assert {change["verdict"] for change in json.loads(capsys.readouterr().out)["changes"]} == {"same"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fail-on", "5%"], "OLD"),
        ([OLD, NEW, "--fail-on", "much"], "such as 5%"),
        ([OLD, "none.json"], "can't read none.json"),
        ([OLD, "broken.json"], "broken.json is no results file"),
        ([OLD, NEW, "--json", "none/c.json"], "--json"),
    ],
    ids=["no files", "no share", "a missing file", "another file", "a folder that is not there"],
)
def test_a_bad_argument_is_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text('{"format": "other"}')
    assert main(["compare", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in " ".join(captured.err.split())
    assert "Traceback" not in captured.err
    assert captured.out == ""
