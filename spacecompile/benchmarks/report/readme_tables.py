"""The README's tables, written from a results file so that no number there is typed by hand.

`python -m spacecompile.benchmarks.report.readme_tables README.md RESULTS.json` writes
the block between the two markers anew.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import UNSET

from spacecompile.benchmarks.peers.records import Peer
from spacecompile.benchmarks.result_records import BenchResult, read_result
from spacecompile.errors import DataError

BEGIN = "<!-- results: begin, written by `make docs` -->"
END = "<!-- results: end -->"

_TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""What the engines call themselves."""


def results_block(result: BenchResult) -> str:
    """Markdown of one results file: circumstances, cost, latency, score.

    Args:
        result: A whole run; sections that it lacks are left out.
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
        _limits_table(result),
        _score_table(result),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) + ("---:",) * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cost_table(result: BenchResult) -> str:
    before, after = result.budget.cost_source, result.budget.cost
    rows = [
        ("multiply-adds, fvcore (the benchmark's GFLOPs)", _giga(before.macs_fvcore), _giga(after.macs_fvcore)),
        ("multiply-adds, torch's counter", _giga(before.macs_torch), _giga(after.macs_torch)),
        ("parameters", f"{before.params / 1e6:.4f} M", f"{after.params / 1e6:.4f} M"),
    ]
    return _table(("one forward pass", "checkpoint", "after exact rewrites"), rows)


def _giga(macs: int) -> str:
    return f"{macs / 1e9:.4f} G"


def _latency_table(result: BenchResult) -> str:
    if result.latency is UNSET or "app" not in result.latency:
        return ""
    peers = {} if result.peers is UNSET else result.peers
    rows = []
    for contestant, latency in result.latency["app"].items():
        ratio = _own_ratios(contestant, peers) if contestant not in peers else ""
        label = peers[contestant].label if contestant in peers else _variant_label(result, contestant)
        rows.append((label, *map(_ms, (latency.p50_ms, latency.p90_ms, latency.p99_ms)), str(latency.samples), ratio))
    return _table(("frame in memory to answer", "median", "p90", "p99", "samples", "time over peers'"), rows)


def _variant_label(result: BenchResult, variant: str) -> str:
    """Of a row: the variant and the engine that ran it, where the file says which."""
    engines = {} if result.configuration is UNSET else result.configuration.engines
    # A file that names none is older than the choice: ONNX Runtime was the only one.
    name = engines[variant].name if variant in engines else "onnxruntime"
    return f"**{variant}** (sealed, {_TITLES.get(name, name)})"


def _own_ratios(variant: str, peers: dict[str, Peer]) -> str:
    return ", ".join(
        f"{peer.ratios[variant].ratio:.2f} x {name}" for name, peer in peers.items() if variant in peer.ratios
    )


def _limits_table(result: BenchResult) -> str:
    if result.roofline is UNSET:
        return ""
    rows = [
        (name, f"{limit.limit_ms:.1f} ms", limit.bound, f"{limit.measured_ms:.1f} ms", f"{limit.share:.0%}")
        for name, limit in result.roofline.variants.items()
    ]
    return _table(("engine alone", "limit of the machine", "bound by", "median", "reached"), rows)


def _ms(value: float | None) -> str:
    return f"{value:.0f} ms" if isinstance(value, float) else "too few samples"


def _score_table(result: BenchResult) -> str:
    if result.score is UNSET:
        return ""
    rows = [
        (name, str(score.frames), *(f"{value:.3f}" for value in (score.s_cls, score.s_det, score.s_seg, score.s_final)))
        for name, score in result.score.variants.items()
    ]
    return _table(("variant on rendered frames never trained on", "frames", "S_cls", "S_det", "S_seg", "S_final"), rows)


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
    """Write the block of one README from one results file."""
    readme_path, results_path = map(Path, arguments)
    block = results_block(read_result(results_path.read_bytes()))
    readme_path.write_text(with_results(readme_path.read_text(encoding="utf-8"), block), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
