"""Tables of budgets and of what the network and the shipped files cost."""

from __future__ import annotations

from spacecompile.benchmarks.cost.records import BudgetLine, GraphCost
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.contract import Cost
from spacecompile.page.table import Row, Table, columns_of, giga, mega

# Operators below this share of a graph's multiply-adds are not named.
_NAMED_SHARE_MIN = 0.005


def budget_table(result: BenchResult) -> Table:
    """Every limit with its value, and every limit that could not be judged."""
    columns = columns_of(" | value | limit | margin | used: meter detail | : verdict")
    rows = [
        Row(
            line.label,
            (
                *(_quantity(value, line.unit) for value in (line.value, line.limit, line.margin)),
                _used(line),
                "holds" if line.passed else "exceeded",
            ),
            tone="good" if line.passed else "bad",
        )
        for line in result.budget.lines
    ]
    rows += [Row(key, ("not judged",), reason, tone="bad") for key, reason in result.budget.unjudged.items()]
    return Table(title="Budget", columns=columns, rows=tuple(rows))


def _quantity(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.5g}"
    return f"{number} {unit}".rstrip()


def _used(line: BudgetLine) -> str:
    """Percent of a limit that are used; a limit of zero has no share."""
    return f"{100 * line.value / line.limit:,.1f}" if line.limit > 0 else ""


def rewrites_table(result: BenchResult) -> Table:
    """The network's cost in the checkpoint, after each pass, and as shipped."""
    budget = result.budget
    columns = columns_of("after | GMAC, fvcore | GMAC, torch | parameters | relative error")
    rows = [Row("checkpoint", (*_costs(budget.cost_source), ""))]
    for step in budget.rewrites:
        error = (f"{step.relative_error:.1e}" if step.relative_error else "none") if step.changed else "nothing to do"
        name = step.name.replace("_", " ")
        rows.append(Row(name, (*_costs(step.after), error), tone="" if step.changed else "faint"))
    rows.append(Row("shipped", (*_costs(budget.cost), ""), tone="total"))
    return Table(title="Rewrites", columns=columns, rows=tuple(rows))


def _costs(cost: Cost) -> tuple[str, str, str]:
    return giga(cost.macs_fvcore), giga(cost.macs_torch), f"{cost.params:,}"


def stages_table(result: BenchResult) -> Table | None:
    """Cost by stage of the network; the reason where the checkpoint is not here."""
    budget, title = result.budget, "By stage of the network"
    if not budget.stages:
        return _explained(title, f"No stages: {budget.notes['stages']}") if "stages" in budget.notes else None
    whole = budget.cost.macs_fvcore
    columns = columns_of(
        "before and after the rewrites | GMAC, fvcore | after | of all: percent detail | GMAC, torch | "
        "after | M parameters | after"
    )
    rows = tuple(
        Row(
            stage.stage.replace("_", " "),
            (
                giga(stage.before.macs_fvcore),
                giga(stage.after.macs_fvcore),
                f"{100 * stage.after.macs_fvcore / whole:.1f}" if whole else "",
                giga(stage.before.macs_torch),
                giga(stage.after.macs_torch),
                mega(stage.before.params),
                mega(stage.after.params),
            ),
        )
        for stage in budget.stages
    )
    return Table(title=title, columns=columns, rows=rows)


def graphs_table(result: BenchResult) -> Table | None:
    """Cost of each shipped file, counted in it; what could not be counted, and why."""
    graphs, title = result.budget.graphs, "Of the shipped files, counted in the graphs"
    note = result.budget.notes.get("graphs")
    if not graphs:
        return None if note is None else _explained(title, f"No graphs: {note}")
    columns = columns_of(
        "variant | GMAC per frame | views | M weights | file, MB | weights, MB: detail | done in: text | "
        "most of it: text detail"
    )
    rows = []
    for name, graph in graphs.items():
        sizes = (mega(graph.params), mega(graph.file_bytes, 2), mega(graph.weight_bytes, 2))
        rows.append(Row(name, (giga(graph.macs), str(graph.views), *sizes, _computed_in(graph), _operators(graph))))
        if graph.uncounted:
            reason = f"{graph.uncounted} nodes of {name} multiply and add, but their shapes are unknown: not counted."
            rows.append(Row("", reason=reason, tone="faint"))
    notes = () if note is None else (f"Not counted: {note}",)
    return Table(title=title, columns=columns, rows=tuple(rows), notes=notes)


def _computed_in(graph: GraphCost) -> str:
    """The types that a graph's multiply-adds are done in; bf16 is the engine's, of a file that is in fp32."""
    shares = [f"{macs / graph.macs:.0%} {kind}" for kind, macs in graph.macs_by_type.items() if graph.macs]
    text = ", ".join(share for share in shares if not share.startswith("0%"))
    return f"{text}, run in bf16" if graph.precision == "bf16" else text


def _operators(graph: GraphCost) -> str:
    shares = {op: macs / graph.macs for op, macs in graph.macs_by_op.items() if graph.macs}
    return ", ".join(f"{op} {100 * share:.0f} %" for op, share in shares.items() if share >= _NAMED_SHARE_MIN)


def _explained(title: str, reason: str) -> Table:
    return Table(title=title, notes=(reason,))
