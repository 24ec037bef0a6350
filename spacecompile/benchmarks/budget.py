"""The cost of a network against the limits of the benchmark or of a user's own file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from spacecompile.benchmarks.records import BudgetLine, BudgetReport
from spacecompile.contract import Budget, Cost, Manifest
from spacecompile.errors import BudgetError, UsageError

COUNTER = "fvcore, one multiply-add counted once"


def read_budget(path: Path) -> Budget:
    """Read limits from a TOML file with the keys of `contract.Budget`; a key that is left out keeps its default.

    Raises:
        UsageError: If the file can't be read, holds an unknown key, or a limit that is no positive number.
    """
    known = ", ".join(field.name for field in msgspec.structs.fields(Budget))
    try:
        budget = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Budget)
    except OSError as error:
        raise UsageError(f"budget file {path} can't be read ({error.strerror}). Check --budget.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"budget file {path} is not usable: {error}. Its keys are {known}, each a number.") from error
    limits = msgspec.structs.asdict(budget)
    bad = {key: limit for key, limit in limits.items() if not 0 < limit < float("inf")}
    if bad:
        raise UsageError(f"budget file {path} holds {bad}; a limit is a number above zero.")
    return budget


def check_budget(manifest: Manifest, budget: Budget) -> BudgetReport:
    """Judge the rewritten network, the one that ships, against every limit."""
    cost = manifest.cost
    lines = (
        _line("gmacs_max", "Multiply-adds", gmacs(cost), budget.gmacs_max, "GMAC"),
        _line("mparams_max", "Parameters", mparams(cost), budget.mparams_max, "M"),
    )
    return BudgetReport(
        passed=all(line.passed for line in lines),
        lines=lines,
        counter=COUNTER,
        cost_source=manifest.cost_source,
        cost=cost,
        rewrites=manifest.rewrites,
    )


def gmacs(cost: Cost) -> float:
    """Multiply-adds in fvcore's convention, in units of 1e9."""
    return cost.macs_fvcore / 1e9


def mparams(cost: Cost) -> float:
    """Parameters in units of 1e6."""
    return cost.params / 1e6


def _line(key: str, label: str, value: float, limit: float, unit: str) -> BudgetLine:
    return BudgetLine(
        key=key, label=label, value=value, limit=limit, margin=limit - value, unit=unit, passed=value <= limit
    )


def budget_error(report: BudgetReport) -> BudgetError | None:
    """The error of a report with an exceeded limit; None when every limit holds."""
    exceeded = [
        f"{line.label.lower()} {line.value:.4g} {line.unit} against {line.limit:.4g} {line.unit}"
        for line in report.lines
        if not line.passed
    ]
    if not exceeded:
        return None
    return BudgetError(f"budget exceeded: {'; '.join(exceeded)}. Choose a smaller network or raise --budget.")
