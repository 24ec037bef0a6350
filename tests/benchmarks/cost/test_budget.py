from __future__ import annotations

from pathlib import Path

import pytest

from spacecompile.benchmarks.cost.budget import Measured, budget_error, check_budget, read_budget
from spacecompile.benchmarks.latency.records import ProcessStart
from spacecompile.benchmarks.latency.summary import summarise
from spacecompile.contract import Budget, Cost, Manifest, ModelSpec
from spacecompile.errors import UsageError


def manifest_of(cost: Cost) -> Manifest:
    return Manifest(
        schema_version=1,
        name="net",
        spec=ModelSpec(),
        health_signals=(),
        variants=(),
        files={},
        source_sha256="0" * 64,
        source_format="by hand",
        training={},
        rewrites=(),
        cost_source=Cost(params=3_454_060, macs_fvcore=4_482_700_000, macs_torch=4_411_600_000),
        cost=cost,
        tools={},
        licences=(),
    )


REWRITTEN = Cost(params=3_388_000, macs_fvcore=3_400_000_000, macs_torch=3_340_000_000)


def test_the_benchmark_limits_hold_with_their_margins() -> None:
    report = check_budget(manifest_of(REWRITTEN), Budget())
    assert report.passed
    assert [(line.key, line.value, line.limit) for line in report.lines] == [
        ("gmacs_max", 3.4, 100.0),
        ("mparams_max", 3.388, 30.0),
    ]
    assert [line.margin for line in report.lines] == pytest.approx([96.6, 26.612])
    assert budget_error(report) is None


def test_the_limit_on_multiply_adds_uses_fvcore_and_says_so() -> None:
    cost = Cost(params=1, macs_fvcore=99_000_000_000, macs_torch=101_000_000_000)
    report = check_budget(manifest_of(cost), Budget())
    assert report.passed
    assert "fvcore" in report.counter


@pytest.mark.parametrize(
    ("budget", "named"),
    [
        (Budget(gmacs_max=3.3), "multiply-adds 3.4 GMAC against 3.3 GMAC"),
        (Budget(mparams_max=3.0), "parameters 3.388 M against 3 M"),
        (
            Budget(gmacs_max=1.0, mparams_max=1.0),
            "multiply-adds 3.4 GMAC against 1 GMAC; parameters 3.388 M against 1 M",
        ),
    ],
    ids=["multiply-adds", "parameters", "both"],
)
def test_an_exceeded_limit_is_named_with_its_numbers(budget: Budget, named: str) -> None:
    report = check_budget(manifest_of(REWRITTEN), budget)
    error = budget_error(report)
    assert not report.passed
    assert error is not None
    assert error.exit_code == 6
    assert named in str(error)


def test_a_value_at_its_limit_holds() -> None:
    assert check_budget(manifest_of(REWRITTEN), Budget(gmacs_max=3.4, mparams_max=3.388)).passed


def test_a_budget_file_changes_the_limits_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text("gmacs_max = 5\n")
    assert read_budget(path) == Budget(gmacs_max=5.0, mparams_max=30.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gmacs = 5", "unknown field `gmacs`"),
        ("gmacs_max = 'many'", "gmacs_max"),
        ("gmacs_max = -1", "zero or above"),
        ("p50_ms_max = nan", "zero or above"),
        ("mparams_max = inf", "zero or above"),
        ("gmacs_max 5", "not usable"),
        ("[limits]\ngmacs_max = 5", "limits"),
    ],
    ids=["unknown key", "text", "negative", "no number", "infinite", "no TOML", "table"],
)
def test_an_unusable_budget_file_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="budget file") as caught:
        read_budget(path)
    assert said in str(caught.value)


def test_a_missing_budget_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        read_budget(tmp_path / "none.toml")


MEASURED = Measured(
    file_bytes={"fp32": 13_500_000, "int8": 4_100_000},
    process_start={
        "fp32": ProcessStart(starts=3, load_ms=400.0, start_to_answer_ms=900.0, peak_memory_bytes=210_000_000),
        "int8": ProcessStart(starts=3, problem="it crashed"),
    },
    app={"fp32": summarise([40.0] * 70 + [90.0]), "int8": summarise([60.0] * 70)},
    drops={"fp32": -0.0001, "int8": 0.002},
    left_out={"fp16": "it needs a GPU"},
)


def judged(budget: Budget, measured: Measured = MEASURED) -> dict[str, tuple[float, bool]]:
    report = check_budget(manifest_of(REWRITTEN), budget, measured, ("fp32", "int8"))
    return {line.label: (line.value, line.passed) for line in report.lines[2:]}


@pytest.mark.parametrize(
    ("budget", "lines"),
    [
        (Budget(file_mb_max=10), {"Graph file, fp32": (13.5, False), "Graph file, int8": (4.1, True)}),
        (Budget(memory_mb_max=200, variants=("fp32",)), {"Peak memory, fp32": (210.0, False)}),
        (Budget(load_ms_max=400, variants=("fp32",)), {"Load, fp32": (400.0, True)}),
        (Budget(first_answer_ms_max=1000, variants=("fp32",)), {"Start to first answer, fp32": (900.0, True)}),
        (Budget(p90_ms_max=50), {"Latency p90, fp32": (40.0, True), "Latency p90, int8": (60.0, False)}),
        (Budget(max_ms_max=80), {"Latency max, fp32": (90.0, False), "Latency max, int8": (60.0, True)}),
        (Budget(score_drop_max=0), {"Drop of s_final, fp32": (-0.0001, True), "Drop of s_final, int8": (0.002, False)}),
    ],
    ids=["file", "memory", "load", "first answer", "percentile", "max", "drop"],
)
def test_a_limit_is_judged_for_every_variant_that_it_names(
    budget: Budget, lines: dict[str, tuple[float, bool]]
) -> None:
    assert judged(budget) == lines


@pytest.mark.parametrize(
    ("budget", "key", "reason"),
    [
        (Budget(p99_ms_max=50), "p99_ms_max of fp32", "591 more samples"),
        (Budget(memory_mb_max=300), "memory_mb_max of int8", "it crashed"),
        (Budget(p50_ms_max=50, variants=("fp32", "bf16")), "p50_ms_max of bf16", "no variant of that name"),
        (Budget(p50_ms_max=50, variants=("fp16",)), "p50_ms_max of fp16", "needs a GPU"),
    ],
    ids=["too few samples", "a start that failed", "a variant that is not there", "a variant that was left out"],
)
def test_a_limit_that_can_not_be_judged_is_no_limit_that_holds(budget: Budget, key: str, reason: str) -> None:
    report = check_budget(manifest_of(REWRITTEN), budget, MEASURED, ("fp32", "int8"))
    assert not report.passed
    assert reason in report.unjudged[key]
    error = budget_error(report)
    assert error is not None
    assert error.exit_code == 6
    assert f"{key} can't be judged" in str(error)


def test_what_was_not_measured_says_why() -> None:
    nothing = Measured(why={"process_start": "do it with --starts 3"})
    report = check_budget(manifest_of(REWRITTEN), Budget(load_ms_max=1, p50_ms_max=1), nothing, ("fp32",))
    assert report.unjudged == {
        "load_ms_max of fp32": "do it with --starts 3",
        "p50_ms_max of fp32": "it was not measured",
    }


def test_a_variant_on_several_engines_is_judged_on_each() -> None:
    measured = Measured(file_bytes={"fp32@onnxruntime": 2_000_000, "fp32@openvino": 2_000_000, "int8": 1})
    budget = Budget(file_mb_max=1, variants=("fp32",))
    report = check_budget(manifest_of(REWRITTEN), budget, measured, tuple(measured.file_bytes))
    assert [line.label for line in report.lines[2:]] == ["Graph file, fp32@onnxruntime", "Graph file, fp32@openvino"]


@pytest.mark.parametrize(
    ("left_out", "reason"),
    [
        ({"int8@openvino": "it is not certified"}, "it is not certified"),
        ({"int8@openvino": "no CPU", "int8@tensorrt": "no GPU"}, "no CPU; no GPU"),
        ({"int8@openvino": "no CPU", "int8@other": "no CPU"}, "no CPU"),
        ({"int8-d4@openvino": "no CPU"}, "no variant of that name takes part"),
    ],
    ids=["one engine", "two engines", "one reason", "another variant"],
)
def test_a_variant_that_was_left_out_on_its_engines_says_why(left_out: dict[str, str], reason: str) -> None:
    budget = Budget(file_mb_max=1, variants=("int8",))
    report = check_budget(manifest_of(REWRITTEN), budget, Measured(left_out=left_out), ("fp32@openvino",))
    assert report.unjudged == {"file_mb_max of int8": reason}


def test_without_any_variant_a_limit_is_not_shown_to_hold() -> None:
    report = check_budget(manifest_of(REWRITTEN), Budget(p50_ms_max=1), Measured(), ())
    assert report.unjudged == {"p50_ms_max": "no variant takes part"}


def test_what_can_not_be_judged_is_not_called_exceeded() -> None:
    unjudged = check_budget(manifest_of(REWRITTEN), Budget(p99_ms_max=50), MEASURED, ("fp32",))
    said = str(budget_error(unjudged))
    assert "not shown to hold" in said
    assert "exceeded" not in said
    assert "smaller" not in said
    both = check_budget(manifest_of(REWRITTEN), Budget(p99_ms_max=50, gmacs_max=0), MEASURED, ("fp32",))
    said = str(budget_error(both))
    assert "budget exceeded: multiply-adds" in said
    assert "not shown to hold: p99_ms_max" in said


@pytest.mark.parametrize("key", ["gmacs_max", "file_mb_max", "p50_ms_max", "score_drop_max"])
def test_zero_is_a_limit(tmp_path: Path, key: str) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text(f"{key} = 0\n")
    assert getattr(read_budget(path), key) == 0


def test_a_drop_of_zero_is_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "budgets.toml"
    path.write_text("score_drop_max = 0\np99_ms_max = 50\nvariants = ['fp32']\n")
    assert read_budget(path) == Budget(score_drop_max=0.0, p99_ms_max=50.0, variants=("fp32",))


ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "budgets.toml"


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the example is read in a clone")
def test_the_example_names_every_limit_and_is_read() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert read_budget(EXAMPLE).variants == ("fp32",)
    assert {key for key in Budget.__struct_fields__ if f"{key} = " not in text} == set()
