"""Tables of README and docs, written from a results file so that no number there is typed by hand.

`python -m spacecompile.benchmarks.report.readme_tables README.md docs/results.md RESULTS.json` writes the blocks
between the two markers of each anew: a summary into the README, everything into the other.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from msgspec import UNSET

from spacecompile.benchmarks.report.cost_tables import rewrites_table
from spacecompile.benchmarks.report.limit_tables import limits_table
from spacecompile.benchmarks.report.tables import latency_table, score_table
from spacecompile.benchmarks.report.wording import ratios_of
from spacecompile.benchmarks.result_records import BenchResult, read_result
from spacecompile.errors import DataError
from spacecompile.page.table import LACKING, Column, Row, Table

BEGIN = "<!-- results: begin, written by `make docs` -->"
END = "<!-- results: end -->"

_TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""What the engines call themselves."""

_LIMITS = {
    "limit, ms": "limit of the machine, ms",
    "bound by": "bound by",
    "measured, ms": "median, ms",
    "of the limit": "reached, %",
}
_SCORES = {head: head for head in ("frames", "S_cls", "S_det", "S_seg", "S_final")}


def results_block(result: BenchResult) -> str:
    """Markdown of one results file: circumstances, cost, latency, score.

    Args:
        result: Result of a run; tables of sections that it lacks are left out.
    """
    environment = result.environment
    engines = {"onnxruntime": environment.versions.get("onnxruntime")}
    if result.configuration is not UNSET:
        engines |= {engine.name: engine.version for engine in result.configuration.engines.values()}
    parts = [
        f"Measured {result.created[:10]} on {environment.cpu}, {environment.threads} threads, "
        f"{', '.join(f'{name} {version}' for name, version in engines.items())}, "
        f"torch {environment.versions.get('torch')}, "
        f"commit `{(environment.commit or 'unknown')[:10]}`.",
        _cost_table(result),
        _latency_table(result),
        _markdown(limits_table(result), "engine alone", _LIMITS),
        _markdown(score_table(result), "variant on rendered frames never trained on", _SCORES),
    ]
    return "\n\n".join(part for part in parts if part)


def summary_block(result: BenchResult) -> str:
    """Markdown of one small table: each variant without augmentation beside its strongest peer, by medians.

    Args:
        result: Result of a run with latencies and peers.
    """
    if result.latency is UNSET:
        return ""
    app, peers = result.latency["app"], {} if result.peers is UNSET else result.peers
    lines = [("frame in memory to answer", "median", "strongest peer", "its median", "time over the peer's")]
    lines.append(("---", "---:", "---", "---:", "---:"))
    for name in [variant for variant in result.subject.variant_bytes if variant in app and "-" not in variant]:
        over = [(ratio.ratio, peer) for variant, peer, ratio in ratios_of(result) if variant == name]
        ratio, peer = max(over, default=(0.0, ""))
        if peer:
            label = peers[peer].label.partition(":")[0]
            ours, theirs = (f"{app[one].p50_ms:.0f} ms" for one in (name, peer))
            lines.append((_variant_label(result, name), ours, f"`{peer}` ({label})", theirs, f"{ratio:.2f} x"))
    cost = _cost_table(result)
    return "\n\n".join(("\n".join("| " + " | ".join(line) + " |" for line in lines), cost))


def _markdown(table: Table | None, first: str, heads: Mapping[str, str], rows: Sequence[Row] | None = None) -> str:
    """Some columns of a table, each under a heading of its own; what follows a comma there is the unit in the cells."""
    if table is None or not table.rows:
        return ""
    lines = [(first, *(head.partition(", ")[0] for head in heads.values())), ("---", *("---:" for _ in heads))]
    for row in table.rows if rows is None else rows:
        cells = ((table.cell(row, column), head.partition(", ")[2]) for column, head in heads.items())
        lines.append((row.name, *(_with_unit(text, unit) for text, unit in cells)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _with_unit(text: str, unit: str) -> str:
    if text.endswith(LACKING):
        return "too few samples"
    return f"{text}{'' if unit in ('', '%') else ' '}{unit}" if text else ""


def _cost_table(result: BenchResult) -> str:
    heads = {
        "GMAC, fvcore": "multiply-adds by fvcore (the benchmark's GFLOPs), G",
        "GMAC, torch": "by torch's counter, G",
        "parameters": "parameters",
    }
    table = rewrites_table(result)
    return _markdown(table, "one forward pass", heads, (table.rows[0], table.rows[-1]))


def _latency_table(result: BenchResult) -> str:
    table = latency_table(result)
    if table is None:
        return ""
    ratios = ratios_of(result)
    peers = {} if result.peers is UNSET else result.peers
    column = Column("over peers")
    rows = []
    for row in table.rows:
        label = peers[row.name].label if row.name in peers else _variant_label(result, row.name)
        over = ", ".join(f"{ratio.ratio:.2f} x {peer}" for variant, peer, ratio in ratios if variant == row.name)
        rows.append(replace(row, name=label, cells=(*row.cells, over)))
    heads = {"p50": "median, ms", "p90": "p90, ms", "p99": "p99, ms", "samples": "samples"}
    heads[column.head] = "time over peers'"
    return _markdown(
        replace(table, columns=(*table.columns, column), rows=tuple(rows)), "frame in memory to answer", heads
    )


def _variant_label(result: BenchResult, variant: str) -> str:
    """A variant with the engine that ran it, where the file says which."""
    engines = {} if result.configuration is UNSET else result.configuration.engines
    # A file that names none is older than the choice: ONNX Runtime was the only one.
    name = engines[variant].name if variant in engines else "onnxruntime"
    return f"**{variant}** (sealed, {_TITLES.get(name, name)})"


def with_results(readme: str, block: str) -> str:
    """A README with the text between its markers replaced.

    Raises:
        DataError: If the markers are missing.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise DataError(f"the README lacks the lines {BEGIN!r} and {END!r}. Put them where the tables belong.")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def main(arguments: list[str]) -> None:
    """Write the blocks of README and results page from one results file."""
    readme_path, page_path, results_path = map(Path, arguments)
    result = read_result(results_path.read_bytes())
    for path, block in ((readme_path, summary_block(result)), (page_path, results_block(result))):
        path.write_text(with_results(path.read_text(encoding="utf-8"), block), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
