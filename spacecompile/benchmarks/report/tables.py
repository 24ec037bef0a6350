"""The rows of every section of a result, made once: the terminal, the page and the README only print them.

Needs no extra. A new section is one function here and one line in `_TABLES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from msgspec import UNSET

from spacecompile.benchmarks.latency.records import Latency
from spacecompile.benchmarks.latency.summary import CORE_PERCENTILES, percentile_key, percentile_of
from spacecompile.benchmarks.report.cost_tables import budget_table, graphs_table, rewrites_table, stages_table
from spacecompile.benchmarks.report.limit_tables import (
    bandwidths_table,
    ceilings_table,
    limits_table,
    profile_tables,
    scaling_points_table,
    scaling_table,
)
from spacecompile.benchmarks.report.peer_tables import agreement_table, peers_table, ratios_table
from spacecompile.benchmarks.report.wording import certificate_of
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.metrics import Scores
from spacecompile.page.table import LACKING, Row, Table, columns_of, mega

SCOPES = ("engine", "device", "app", "file")
"""From the inside out."""


def tables_of(result: BenchResult) -> dict[str, Table]:
    """Every table that a result has numbers or a reason for, by name, in the order of a terminal."""
    made = {name: make(result) for name, make in _TABLES.items()}
    return {name: table for name, table in made.items() if table is not None} | profile_tables(result)


def score_table(result: BenchResult) -> Table | None:
    """Scores of each variant and of PyTorch, or why there are none."""
    title, report = "Score", result.score
    if report is UNSET:
        return None if result.score_note is UNSET else Table(title=title, notes=(result.score_note,))
    columns = columns_of(
        "variant | S_cls | S_det | S_seg | S_acc | S_flops: detail | S_params: detail | S_final: bold | "
        "views charged | drop | frames: detail"
    )
    rows = []
    for name, scores in report.variants.items():
        charged, drop = report.s_final_charged.get(name), report.drops.get(name)
        further = ("" if charged is None else f"{charged:.4f}", "" if drop is None else f"{drop:+.4f}")
        rows.append(Row(name, (*_scores(scores), *further, str(scores.frames))))
    for tta, scores in report.torch.items():
        name = "PyTorch" if tta == "none" else f"PyTorch, {tta}"
        rows.append(Row(name, (*_scores(scores), "", "", str(scores.frames)), tone="faint"))
    notes = [
        "S_final (s_final in the results file) does not charge the views of test-time augmentation, as the benchmark "
        "has it; “views charged” does."
    ]
    if report.drops:
        notes.append(
            "“Drop” is what the variant's answers lose against PyTorch's with the same augmentation and the same "
            "cost; below zero the variant is better."
        )
    if report.torch_note:
        notes.append(f"PyTorch was not scored: {report.torch_note}")
    frames = next(iter(report.variants.values())).frames if report.variants else 0
    return Table(title=f"Score on {frames} frames", columns=columns, rows=tuple(rows), notes=tuple(notes))


def _scores(scores: Scores) -> tuple[str, ...]:
    names = ("s_cls", "s_det", "s_seg", "s_acc", "s_flops", "s_params", "s_final")
    return tuple(f"{getattr(scores, name):.4f}" for name in names)


def latency_table(result: BenchResult) -> Table | None:
    """Percentiles of every contestant, from frame in memory to answer."""
    if result.latency is UNSET or "app" not in result.latency:
        return None
    app, peers = result.latency["app"], result.peer_names
    engines = {} if result.configuration is UNSET else result.configuration.engines
    keys = _percentile_keys(app.values())
    columns = columns_of(
        f"ms | {_heads(keys)} | max | mean: detail | variation: percent | samples | backend: text detail"
    )
    rows = tuple(
        Row(
            name,
            (
                *(_percentile(latency, key) for key in keys),
                f"{latency.max_ms:,.1f}",
                f"{latency.mean_ms:,.1f}",
                f"{100 * latency.variation:.0f}",
                str(latency.samples),
                engines[name].name if name in engines else "",
            ),
            tone="theirs" if name in peers else "ours",
        )
        for name, latency in app.items()
    )
    lacking = any(latency.missing_samples for latency in app.values())
    notes = ("“More” tells how many samples that percentile still needs to mean something.",) if lacking else ()
    return Table(title="Latency in ms, frame in memory to answer", columns=columns, rows=rows, notes=notes)


def _percentile_keys(latencies: Iterable[Latency]) -> list[str]:
    """Every percentile that one of them holds, by rising value."""
    core = [percentile_key(percentile) for percentile in CORE_PERCENTILES]
    keys = dict.fromkeys([*core, *(key for latency in latencies for key in latency.further_ms)])
    return sorted(keys, key=lambda key: float(re.sub(r"[^0-9.]", "", key)))


def _heads(keys: Iterable[str]) -> str:
    return " | ".join(key.removesuffix("_ms") for key in keys)


def _percentile(latency: Latency, key: str) -> str:
    """A percentile, or how many samples it lacks; empty where it was not asked for."""
    value = percentile_of(latency, key)
    if value is not None:
        return f"{value:,.1f}"
    return f"{latency.missing_samples[key]:,}{LACKING}" if key in latency.missing_samples else ""


def scopes_table(result: BenchResult) -> Table | None:
    """Medians of the scopes inside and around `app`."""
    if result.latency is UNSET or "app" not in result.latency:
        return None
    latency = result.latency
    engine, device = latency.get("engine", {}), latency.get("device", {})
    # On a CPU `device` is `engine`, and is not said twice.
    repeated = {"device"} if all(engine.get(name) == told for name, told in device.items()) else set()
    scopes = [scope for scope in SCOPES if scope in latency and scope not in repeated]
    rows = tuple(
        Row(
            name,
            tuple(_percentile(latency[scope][name], "p50_ms") if name in latency[scope] else "" for scope in scopes),
            tone="theirs" if name in result.peer_names else "ours",
        )
        for name in latency["app"]
    )
    return Table(title="Median by scope", columns=columns_of(" | ".join(("ms", *scopes))), rows=rows)


def starts_table(result: BenchResult) -> Table | None:
    """How long a variant takes to start in a process of its own, and what memory it needs."""
    if result.process_start is UNSET:
        return None
    columns = columns_of(
        "variant | import, ms | load, ms | first answer, ms | in all, ms: bold | next answer, ms | "
        "memory after import, MB: detail | peak memory, MB: bold | starts"
    )
    rows = []
    for name, start in result.process_start.items():
        if start.problem:
            rows.append(Row(name, reason=f"did not start: {start.problem}"))
            continue
        times_ms = (
            start.import_ms,
            start.load_ms,
            start.first_answer_ms,
            start.start_to_answer_ms,
            start.next_answer_ms,
        )
        memory = (mega(start.imported_memory_bytes, 0), mega(start.peak_memory_bytes, 0))
        rows.append(Row(name, (*(f"{value_ms:,.0f}" for value_ms in times_ms), *memory, str(start.starts))))
    return Table(title="Start in a fresh process", columns=columns, rows=tuple(rows))


def cold_starts_table(result: BenchResult) -> Table | None:
    """How long a variant takes to load in a process that runs already."""
    if result.cold_start is UNSET:
        return None
    columns = columns_of("variant | load, ms | load to first answer, ms | graph file, MB")
    rows = tuple(
        Row(
            name,
            (f"{start.load_ms:,.0f}", f"{start.first_answer_ms:,.0f}", mega(result.subject.variant_bytes[name], 2)),
        )
        for name, start in result.cold_start.items()
    )
    return Table(title="In a process that runs already", columns=columns, rows=rows, is_detail=True)


def paced_table(result: BenchResult) -> Table | None:
    """Latency of frames that come at a camera's rate, and how many answers came too late."""
    if result.paced is UNSET:
        return None
    keys = _percentile_keys(paced.latency for paced in result.paced.values())
    columns = columns_of(
        f"ms | {_heads(keys)} | max | deadline: detail | missed: verdict | late starts | busy: percent"
    )
    rows = tuple(
        Row(
            name,
            (
                *(_percentile(paced.latency, key) for key in keys),
                f"{paced.latency.max_ms:,.1f}",
                f"{1000 / paced.rate_hz:,.1f}",
                f"{paced.deadline_misses} of {paced.frames}",
                str(paced.late_starts),
                f"{100 * paced.busy_share:.0f}",
            ),
            tone="bad" if paced.deadline_misses else "good",
        )
        for name, paced in result.paced.items()
    )
    rates = ", ".join(dict.fromkeys(f"{paced.rate_hz:g}" for paced in result.paced.values()))
    return Table(title=f"Paced at {rates} Hz, from when a frame was due to its answer", columns=columns, rows=rows)


def throughput_table(result: BenchResult) -> Table | None:
    """Frames per second with sessions side by side."""
    if result.throughput is UNSET:
        return None
    columns = columns_of(
        "variant | sessions | threads of each | frames: detail | seconds: detail | frames per second: bold"
    )
    rows = tuple(
        Row(
            name,
            (str(one.sessions), str(one.threads), str(one.frames), f"{one.seconds:,.1f}", f"{one.frames_per_s:,.2f}"),
        )
        for name, found in result.throughput.items()
        for one in found
    )
    return Table(title="Throughput, sessions side by side", columns=columns, rows=rows)


def energy_table(result: BenchResult) -> Table | None:
    """Energy of one frame, and why some or all variants have none."""
    measured = {} if result.energy is UNSET else result.energy
    notes = () if result.energy_note is UNSET else (result.energy_note,)
    if not measured and not notes:
        return None
    columns = columns_of("variant | J per frame: bold | W | W idle | frames: detail | counter: text")
    rows = tuple(
        Row(
            name,
            (
                f"{energy.joules_per_frame:,.2f}",
                f"{energy.watts:,.1f}",
                f"{energy.idle_watts:,.1f}",
                str(energy.frames),
                energy.counter,
            ),
        )
        for name, energy in measured.items()
    )
    return Table(title="Energy", columns=columns, rows=rows, notes=notes)


def parity_table(result: BenchResult) -> Table | None:
    """The bundle's own certificate, as far as it has the form that this version writes."""
    certificate = certificate_of(result)
    if certificate is None:
        return None
    columns = columns_of(
        "variant | backend: text | same class: percent | class probability, max error | parts IoU, min | "
        "box, max px | frames | : verdict"
    )
    rows = []
    for it in certificate.variants:
        cells = (
            it.backend or certificate.backend,
            f"{100 * it.class_agreement:.1f}",
            f"{it.class_probs_max:.1e}",
            f"{it.parts_iou_min:.5f}",
            f"{it.box_px_max:.3f}",
            ", ".join(f"{count} {kind}" for kind, count in it.num_frames.items()),
            "passed" if it.passed else "failed",
        )
        rows.append(Row(it.variant, cells, tone="good" if it.passed else "bad"))
        if it.failures:
            rows.append(Row("", reason="; ".join(it.failures), tone="faint"))
    return Table(title="Parity certificate", columns=columns, rows=tuple(rows), is_detail=True)


_TABLES: dict[str, Callable[[BenchResult], Table | None]] = {
    "budget": budget_table,
    "rewrites": rewrites_table,
    "stages": stages_table,
    "graphs": graphs_table,
    "score": score_table,
    "latency": latency_table,
    "scopes": scopes_table,
    "starts": starts_table,
    "cold_starts": cold_starts_table,
    "paced": paced_table,
    "throughput": throughput_table,
    "energy": energy_table,
    "ratios": ratios_table,
    "agreement": agreement_table,
    "peers": peers_table,
    "limits": limits_table,
    "ceilings": ceilings_table,
    "bandwidths": bandwidths_table,
    "scaling": scaling_table,
    "scaling_points": scaling_points_table,
    "parity": parity_table,
}
