from __future__ import annotations

from pathlib import Path

import pytest

from spacecompile.benchmarks.budget import budget_error, check_budget, read_budget
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
        ("gmacs_max = -1", "above zero"),
        ("mparams_max = inf", "above zero"),
        ("gmacs_max 5", "not usable"),
        ("[limits]\ngmacs_max = 5", "limits"),
    ],
    ids=["unknown key", "text", "negative", "infinite", "no TOML", "table"],
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
