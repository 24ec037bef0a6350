"""`bench` and `eval` as a user runs them, on a real bundle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spacecompile.benchmarks import source_checkpoint as checkpoints
from spacecompile.benchmarks import suite
from spacecompile.benchmarks.latency.interleaved import Recording
from spacecompile.benchmarks.result_records import read_result
from spacecompile.cli.main import main
from spacecompile.errors import MissingPartError, UsageError

SHORT = ("--duration", "0", "--samples", "12", "--warmup", "1", "--warmup-seconds", "0", "--threads", "1")
QUICK = ("--no-peers", "--no-roofline", "--variant", "fp32", "--starts", "0", "--no-from-file", *SHORT)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("frames")
    assert main(["render", "-o", str(root), "--frames", "4", "--split", "val", "--size", "128", "--workers", "1"]) == 0
    return root


def test_json_on_stdout_is_one_document_and_talk_is_on_stderr(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), *QUICK, "--json", "-"]) == 0
    captured = capsys.readouterr()
    result = read_result(captured.out.encode())
    assert result.latency["app"]["fp32"].samples == 12  # type: ignore[index]
    for said in ("Budget", "Latency in ms", "650 more", "next: spacecompile bench"):
        assert said in " ".join(captured.err.split())


def test_report_and_json_are_written_with_every_section(
    tiny_bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, results = tmp_path / "bench.html", tmp_path / "bench.json"
    arguments = [*QUICK, "--data", str(data), "--limit", "2", "--report", str(page), "--json", str(results)]
    assert main(["bench", str(tiny_bundle), *arguments]) == 0
    result = read_result(results.read_bytes())
    assert result.score.variants["fp32"].frames == 2  # type: ignore[union-attr]
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg") == 4
    assert "http" not in html
    assert {path.name for path in tmp_path.iterdir()} == {"bench.html", "bench.json"}
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "s_final" in captured.err


@pytest.fixture
def small_budget(tmp_path: Path) -> Path:
    path = tmp_path / "budgets.toml"
    path.write_text("mparams_max = 1.0\n")
    return path


def test_an_exceeded_budget_exits_6_after_everything_is_written(
    tiny_bundle: Path, small_budget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "bench.json"
    arguments = ["bench", str(tiny_bundle), *QUICK, "--budget", str(small_budget), "--json", str(results)]
    assert main(arguments) == 6
    document = json.loads(results.read_bytes())
    assert document["budget"]["passed"] is False
    assert document["latency"]["app"]["fp32"]["samples"] == 12
    assert document["error"]["exit_code"] == 6
    assert "BudgetError" in capsys.readouterr().err


def test_an_exceeded_budget_leaves_one_document_on_stdout(
    tiny_bundle: Path, small_budget: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), *QUICK, "--budget", str(small_budget), "--json", "-"]) == 6
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["error"]["kind"] == "BudgetError"
    assert document["budget"]["counters"]["gmacs_max"].startswith("fvcore")
    assert document["budget"]["lines"][1]["margin"] < 0
    assert "parameters" in captured.err


def test_limits_on_what_is_measured_are_judged_and_one_that_can_not_be_exits_6(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = tmp_path / "budgets.toml"
    limits.write_text("file_mb_max = 100\nmemory_mb_max = 8000\nmax_ms_max = 1e6\nvariants = ['fp32']\n")
    arguments = ["bench", str(tiny_bundle), *QUICK, "--starts", "1", "--budget", str(limits), "--json", "-"]
    assert main(arguments) == 0
    result = read_result(capsys.readouterr().out.encode())
    lines = {line.label: line for line in result.budget.lines}
    assert {"Graph file, fp32", "Peak memory, fp32", "Latency max, fp32"} <= lines.keys()
    start = result.process_start["fp32"]  # type: ignore[index]
    assert start.problem == ""
    assert lines["Peak memory, fp32"].value == pytest.approx(start.peak_memory_bytes / 1e6)
    limits.write_text("p99_ms_max = 1e6\n")
    assert main([*arguments[:-2], "--starts", "0", "--json", "-"]) == 6
    document = json.loads(capsys.readouterr().out)
    assert "650 more samples" in document["budget"]["unjudged"]["p99_ms_max of fp32"]
    assert "can't be judged" in document["error"]["message"]


def test_paced_frames_throughput_and_files_are_measured_when_asked_for(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pace = ("--rate", "50", "--paced-seconds", "0.2")
    assert main(["bench", str(tiny_bundle), *QUICK, "--from-file", "--throughput", *pace, "--json", "-"]) == 0
    captured = capsys.readouterr()
    result = read_result(captured.out.encode())
    paced = result.paced["fp32"]  # type: ignore[index]
    assert (paced.rate_hz, paced.frames, paced.latency.samples) == (50, 10, 10)
    assert [row.sessions for row in result.throughput["fp32"]] == [1]  # type: ignore[index]
    assert result.latency["file"]["fp32"].samples == 3  # type: ignore[index]
    for said in ("Paced at 50 Hz", "10", "Throughput", "engine", "file", "Energy"):
        assert said in captured.err
    assert "…" not in captured.err  # every table fits a narrow terminal


@pytest.mark.parametrize("destination", ["-", "partial.json"])
def test_an_interrupt_leaves_a_valid_partial_result_and_exits_130(
    tiny_bundle: Path,
    destination: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add, calls = Recording.add, iter(range(100))

    def add_or_interrupt(*arguments: Any) -> None:
        if next(calls) == 5:
            raise KeyboardInterrupt
        add(*arguments)

    monkeypatch.setattr(Recording, "add", add_or_interrupt)
    monkeypatch.chdir(tmp_path)
    assert main(["bench", str(tiny_bundle), *QUICK, "--json", destination]) == 130
    captured = capsys.readouterr()
    content = captured.out.encode() if destination == "-" else (tmp_path / destination).read_bytes()
    result = read_result(content)
    assert result.partial
    assert result.latency["app"]["fp32"].samples == 5  # type: ignore[index]
    assert "partial" in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--percentiles", "50,many"], 2, "50,many"),
        (["--percentiles", "100"], 2, "between 0 and 100"),
        (["--samples", "0"], 2, "--samples"),
        (["--duration", "-1"], 2, "--duration"),
        (["--threads", "0"], 2, "--threads"),
        (["--variant", "fp16"], 2, "it has fp32, fp32-d4"),
        (["--backend", "tensorflow"], 2, "tensorflow"),
        (["--backend", "auto,tensorflow"], 2, "tensorflow"),
        (["--peer", "tflite"], 2, "tflite"),
        (["--rate", "0"], 2, "--rate"),
        (["--paced-seconds", "nan"], 2, "--paced-seconds"),
        (["--starts", "-1"], 2, "--starts"),
        (["--warmup-seconds", "-1"], 2, "--warmup"),
        (["--budget", "none.toml"], 2, "none.toml"),
        (["--checkpoint", "none.pt"], 2, "none.pt"),
        (["--data", "none"], 2, "none"),
        (["--report", "none/bench.html"], 2, "--report"),
        (["--json", "none/bench.json"], 2, "--json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_argument_is_one_sentence_with_its_exit_code(
    tiny_bundle: Path,
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", str(tiny_bundle), "--duration", "0", "--samples", "1", *arguments]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_without_a_bundle_the_reference_checkpoint_is_built_once_and_measured(
    quick_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoints, "reference_checkpoint", lambda: quick_checkpoint)
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *QUICK]) == 0
    said = " ".join(capfd.readouterr().err.split())
    assert "taking runs/reference.spacepkg" in said
    assert "parity fp32" in said
    assert "next: spacecompile bench runs/reference.spacepkg" in said
    assert main(["bench", *QUICK]) == 0
    assert "parity fp32" not in capfd.readouterr().err


def test_a_reference_that_can_not_be_built_ends_with_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.pt").write_bytes(b"broken")
    monkeypatch.setattr(checkpoints, "reference_checkpoint", lambda: tmp_path / "broken.pt")
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *QUICK, "--json", "-"]) == 2
    captured = capfd.readouterr()
    assert "CheckpointError" in captured.err
    assert json.loads(captured.out)["error"]["exit_code"] == 2


@pytest.mark.parametrize("command", ["bench", "eval", "verify", "inspect"])
def test_a_file_that_is_there_is_replaced_only_by_force(
    tiny_bundle: Path, data: Path, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "result.json"
    results.write_text("mine")
    extra = {"bench": QUICK, "eval": ("--data", str(data), "--limit", "1"), "verify": ("--no-selftest",)}.get(
        command, ()
    )
    arguments = [command, str(tiny_bundle), *extra, "--json", str(results)]
    assert main(arguments) == 2
    assert "add --force" in " ".join(capsys.readouterr().err.split())
    assert results.read_text() == "mine"
    assert main([*arguments, "--force"]) == 0
    assert json.loads(results.read_bytes())
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_json_in_a_folder_is_named_after_model_device_and_day_and_replaces_no_other_run(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert main(["bench", str(tiny_bundle), *QUICK, "--json", str(tmp_path)]) == 0
    first, second = sorted(tmp_path.iterdir(), key=lambda path: len(path.name))
    assert re.fullmatch(rf"{tiny_bundle.stem}_cpu_20\d\d-\d\d-\d\d\.json", first.name)
    assert second.name == f"{first.stem}_2.json"
    assert read_result(first.read_bytes()).created <= read_result(second.read_bytes()).created
    said = "".join(capsys.readouterr().err.split())
    assert f"written:{first}" in said
    assert f"written:{second}" in said


def test_a_file_in_the_bundle_is_refused_before_anything_is_measured(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tiny_bundle.rglob("*"))
    for place in (tiny_bundle, tiny_bundle / "bench.json"):
        assert main(["bench", str(tiny_bundle), "--json", str(place)]) == 2
        assert "which it would spoil" in capsys.readouterr().err
    assert main(["bench", str(tiny_bundle), "--report", str(tiny_bundle / "page.html")]) == 2
    assert "--report" in capsys.readouterr().err
    assert sorted(tiny_bundle.rglob("*")) == before


def test_report_and_json_can_not_be_one_file(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = str(tmp_path / "result")
    assert main(["bench", str(tiny_bundle), *QUICK, "--report", same, "--json", same]) == 2
    assert "different files" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_is_there_is_kept(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bench.html").write_text("mine")
    assert main(["bench", str(tiny_bundle), *QUICK, "--report", str(tmp_path / "bench.html")]) == 2
    assert "--report, or add --force" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "bench.html").read_text() == "mine"


@pytest.mark.parametrize("wrong", ["class", "frame", "mask", "limit"])
def test_frames_that_can_not_be_scored_are_refused_before_anything_is_measured(
    tiny_bundle: Path,
    data: Path,
    wrong: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames = shutil.copytree(data, tmp_path / "frames")
    big_HWC = np.zeros((256, 256, 3), np.uint8)
    if wrong == "class":
        other = tmp_path / "other.spacepkg"
        shutil.copytree(tiny_bundle, other)
        manifest = json.loads((other / "manifest.json").read_bytes())
        manifest["spec"]["classes"][0] = "Rosetta"
        (other / "manifest.json").write_text(json.dumps(manifest))
        tiny_bundle = other
        shutil.rmtree(frames)
        render_all_classes = ["render", "-o", str(frames), "--frames", "10", "--split", "val", "--size", "128"]
        assert main([*render_all_classes, "--workers", "1"]) == 0
    elif wrong in ("frame", "mask"):
        suffix = {"frame": "img", "mask": "layer"}[wrong]
        Image.fromarray(big_HWC).save(sorted(frames.rglob(f"*_{suffix}.jpg"))[-1])
    monkeypatch.setattr(suite, "race", lambda *_, **__: pytest.fail("measured"))
    limit = ["--limit", "0"] if wrong == "limit" else []
    assert main(["bench", str(tiny_bundle), *QUICK, "--data", str(frames), *limit]) == 2
    said = {"class": "VenusExpress", "frame": "256x256", "mask": "256x256", "limit": "--limit"}[wrong]
    assert said in capsys.readouterr().err


def test_eval_gives_a_checkpoint_and_its_bundle_the_same_scores(
    tiny_checkpoint: Path, tiny_bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = {}
    for source in (tiny_checkpoint, tiny_bundle):
        assert main(["eval", str(source), "--data", str(data), "--variant", "fp32", "--json", "-"]) == 0
        documents[source] = json.loads(capsys.readouterr().out)
    ours, torch_s = documents[tiny_bundle], documents[tiny_checkpoint]
    assert set(ours["scores"]) == {"s_cls", "s_det", "s_seg", "s_acc", "s_flops", "s_params", "s_final"}
    for name in ("s_cls", "s_det", "s_seg"):
        assert ours["scores"][name] == pytest.approx(torch_s["scores"][name], abs=1e-3)
    assert ours["scores"]["s_params"] > torch_s["scores"]["s_params"]  # rewritten
    assert ours["source_sha256"] == torch_s["source_sha256"]
    assert (torch_s["kind"], ours["kind"]) == ("checkpoint", "bundle")
    assert ours["frames"] == 4


@pytest.mark.parametrize(
    "flag", [["--variant", "fp16"], ["--backend", "onnxruntime"], ["--precision", "int8"]], ids=str
)
def test_eval_of_a_checkpoint_refuses_what_only_a_bundle_has(
    tiny_checkpoint: Path, data: Path, flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(tiny_checkpoint), "--data", str(data), *flag]) == 2
    assert "float32 on PyTorch" in " ".join(capsys.readouterr().err.split())


def test_eval_of_nothing_names_it(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(tmp_path / "none.pt"), "--data", str(data)]) == 2
    assert "none.pt does not exist" in " ".join(capsys.readouterr().err.split())


def test_a_failed_step_keeps_its_exit_code_and_everything_else_is_written(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise MissingPartError("no such engine. Add it with: pip install engine")

    monkeypatch.setattr(suite, "measure_throughput", fail)
    results, page = tmp_path / "bench.json", tmp_path / "bench.html"
    arguments = [*QUICK, "--throughput", "--json", str(results), "--report", str(page)]
    assert main(["bench", str(tiny_bundle), *arguments]) == 3
    html = page.read_text(encoding="utf-8")
    assert "throughput: no such engine. Add it with: pip install engine" in html[: html.index("<nav")]
    assert "interrupted" not in html
    result = read_result(results.read_bytes())
    assert result.partial
    assert result.latency["app"]["fp32"].samples == 12  # type: ignore[index]
    assert result.error.kind == "MissingPartError"  # type: ignore[union-attr]
    assert result.failed_steps == {"throughput": "no such engine. Add it with: pip install engine"}
    assert "Latency in ms" in capsys.readouterr().err


def test_a_report_that_can_not_be_made_does_not_cost_the_numbers(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise UsageError("a template is broken")

    monkeypatch.setattr("spacecompile.benchmarks.report.page.render_report", fail)
    page, results = tmp_path / "bench.html", tmp_path / "bench.json"
    assert main(["bench", str(tiny_bundle), *QUICK, "--report", str(page), "--json", str(results)]) == 2
    assert read_result(results.read_bytes()).latency["app"]["fp32"].samples == 12  # type: ignore[index]
    assert not page.exists()


@pytest.mark.parametrize(
    ("flags", "roofline"), [(("--no-roofline", "--scaling"), False), (("--no-roofline", "--profile"), True)]
)
def test_without_the_roofline_only_what_needs_it_measures_it(
    tiny_bundle: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    roofline: bool,
) -> None:
    scaled: list[object] = []

    # Its real sizes take minutes; what it measures is tested beside it.
    def measured(checkpoint: Path, *_: object, **__: object) -> Iterator[object]:
        scaled.append(checkpoint)
        return iter(())

    monkeypatch.setattr("spacecompile.benchmarks.limits.scaling.measure_scaling", measured)
    source = ("--checkpoint", str(tiny_checkpoint))
    assert main(["bench", str(tiny_bundle), *QUICK, *flags, *source, "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert ("roofline" in document) == roofline
    assert scaled == ([tiny_checkpoint] if "--scaling" in flags else [])
