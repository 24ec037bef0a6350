"""What the page says of a result: how the run ended, key figures, cells."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET, UnsetType
from page_outline import outline_of, row_of

from spacecompile.benchmarks.peers.records import Peer
from spacecompile.benchmarks.report.page import render_report
from spacecompile.benchmarks.report.wording import key_figures
from spacecompile.benchmarks.result_records import BenchResult, Failure


def test_the_error_of_a_result_stands_at_the_top(whole_result: BenchResult) -> None:
    failed = Failure(kind="BudgetError", message="budget exceeded: too slow", exit_code=6)
    html = render_report(msgspec.structs.replace(whole_result, error=failed))
    assert "budget exceeded: too slow" in html[: html.index("<nav")]
    assert "failed" not in render_report(whole_result).split("</style>")[1].split("<nav")[0]


@pytest.mark.parametrize("names", [("fp32@openvino", "fp32@onnxruntime"), ("fp32-d4",)], ids=["engines", "only d4"])
def test_the_key_figures_are_of_the_first_variant_that_was_measured(
    whole_result: BenchResult, names: tuple[str, ...]
) -> None:
    assert isinstance(whole_result.latency, dict)
    assert not isinstance(whole_result.peers, UnsetType)
    app = whole_result.latency["app"]
    measured = dict.fromkeys(names, app["fp32"]) | {"plain-export": app["plain-export"]}
    ratio = whole_result.peers["plain-export"].ratios["fp32"]
    peers = {
        f"peer-{index}": Peer(
            label="",
            ratios=dict.fromkeys(names, msgspec.structs.replace(ratio, ratio=0.1 + index)),
        )
        for index in range(7)
    } | {"plain-export": whole_result.peers["plain-export"]}
    result = msgspec.structs.replace(whole_result, latency={"engine": {}, "app": measured}, peers=peers)
    figures = key_figures(result)
    assert figures[0].label == f"median, {names[0]}, frame to answer"
    assert [figure.value for figure in figures if figure.unit == "x"] == ["6.10", "0.10"]
    assert len(figures) <= 7


def test_a_variant_that_augments_is_set_against_peers_that_do(whole_result: BenchResult) -> None:
    assert isinstance(whole_result.latency, dict)
    app = {name: latency for name, latency in whole_result.latency["app"].items() if name != "fp32"}
    result = msgspec.structs.replace(whole_result, latency={"engine": {}, "app": app})
    assert [(one.value, one.label) for one in key_figures(result) if one.unit == "x"] == [
        ("0.44", "the time of ttach-d4, its peer")
    ]


def top_of(result: BenchResult) -> str:
    """The text above the sections."""
    return " ".join(outline_of(render_report(result)).text).split("Latency", maxsplit=1)[0]


UNJUDGED = {"p99_ms_max of fp32": "the run was interrupted before"}
INTERRUPT = Failure(kind="InterruptedRunError", message="stopped", exit_code=130)
NO_ENGINE = Failure(kind="MissingPartError", message="no such engine", exit_code=3)


@pytest.mark.parametrize("error", [UNSET, INTERRUPT], ids=["as measured", "as the command ends"])
def test_an_interrupted_run_says_so_and_blames_no_limit(whole_result: BenchResult, error: Failure | UnsetType) -> None:
    assert "interrupted" not in render_report(whole_result)
    budget = msgspec.structs.replace(whole_result.budget, passed=False, unjudged=UNJUDGED)
    stopped = msgspec.structs.replace(whole_result, partial=True, error=error, budget=budget)
    top = top_of(stopped)
    assert "This run was interrupted" in top
    assert "not shown to hold" not in top
    text = " ".join(outline_of(render_report(stopped)).text)
    assert "Not every limit holds or could be judged." in text
    assert "exits with 6" not in text


@pytest.mark.parametrize("error", [UNSET, NO_ENGINE], ids=["as measured", "as the command ends"])
def test_a_failed_step_is_named_with_its_reason_and_not_called_an_interrupt(
    whole_result: BenchResult, error: Failure | UnsetType
) -> None:
    steps = {"torch_scores": "no such engine", "energy": "the counter stopped"}
    budget = msgspec.structs.replace(whole_result.budget, passed=False, unjudged=UNJUDGED)
    failed = msgspec.structs.replace(whole_result, partial=True, failed_steps=steps, error=error, budget=budget)
    top = top_of(failed)
    assert "Absent is what the steps that failed had not measured by then" in top
    assert "torch scores: no such engine energy: the counter stopped" in top
    assert top.count("no such engine") == 1
    assert "interrupted" not in top
    assert "exits with 6" not in render_report(failed)


def test_an_interrupt_after_a_failed_step_tells_both(whole_result: BenchResult) -> None:
    steps = {"energy": "the counter stopped"}
    both = msgspec.structs.replace(whole_result, partial=True, failed_steps=steps, error=INTERRUPT)
    assert "This run was interrupted" in top_of(both)
    assert "energy: the counter stopped" in top_of(both)


def test_a_file_in_fp32_that_is_run_in_bf16_is_not_called_fp32(whole_result: BenchResult) -> None:
    fp32 = whole_result.budget.graphs["fp32"]
    graphs = {
        "fp32": fp32,
        "bf16": msgspec.structs.replace(fp32, precision="bf16"),
        "int8": msgspec.structs.replace(fp32, macs_by_type={"int8": 3_390_000_000, "fp32": 10_000_000}),
    }
    budget = msgspec.structs.replace(whole_result.budget, graphs=graphs)
    html = render_report(msgspec.structs.replace(whole_result, budget=budget))
    assert {name: row_of(html, "cost", name)[6] for name in graphs} == {
        "fp32": "100% fp32",
        "bf16": "100% fp32, run in bf16",
        "int8": "100% int8",
    }


def test_a_limit_that_could_not_be_judged_is_in_the_table_and_at_the_top(whole_result: BenchResult) -> None:
    budget = msgspec.structs.replace(
        whole_result.budget,
        passed=False,
        unjudged={"memory_mb_max of fp32": "no process was started"},
        notes={"stages": "the checkpoint is not here"},
        stages=(),
    )
    html = render_report(msgspec.structs.replace(whole_result, budget=budget))
    assert row_of(html, "budget", "memory_mb_max of fp32") == [
        "memory_mb_max of fp32",
        "no process was started",
        "not judged",
    ]
    assert "No stages: the checkpoint is not here" in html
    assert "Every limit holds" not in html
    assert "memory_mb_max of fp32 can&#39;t be judged" in html[: html.index("<nav")]
