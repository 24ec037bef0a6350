"""The tables of `spacecompile bench` on stderr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import UnsetType
from rich.markup import escape

from spacecompile.benchmarks.cost.records import BudgetReport
from spacecompile.benchmarks.latency.records import Latency
from spacecompile.benchmarks.latency.summary import percentile_key, percentile_of
from spacecompile.benchmarks.limits.records import WHERE, LimitReport
from spacecompile.benchmarks.report.wording import computed_in
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.cli import console
from spacecompile.cli.show.layout import plain_table

LAYERS_SHOWN = 8
"""The results file and the report hold all of them."""


def say_result(result: BenchResult, percentiles: Sequence[float]) -> None:
    """Print every section that was measured, and what to know about it.

    Args:
        result: To print.
        percentiles: Columns of the latency table.
    """
    _say_budget(result)
    _say_score(result)
    _say_latency(result, percentiles)
    _say_starts(result)
    _say_paced(result, percentiles)
    _say_throughput(result)
    _say_energy(result)
    _say_peers(result)
    say_limits(result)
    say_scaling(result)
    _say_missing_backends(result)
    for warning in result.warnings:
        console.say(f"[yellow]note[/] {escape(warning)}")


def _say_budget(result: BenchResult) -> None:
    budget = result.budget
    table = plain_table("Budget", "", "value", "limit", "margin", "")
    for line in budget.lines:
        verdict = "[green]ok[/]" if line.passed else "[bold red]exceeded[/]"
        numbers = (f"{value:,.4g} {line.unit}" for value in (line.value, line.limit, line.margin))
        table.add_row(line.label, *numbers, verdict)
    console.stderr.print(table)
    before, after = budget.cost_source, budget.cost
    console.say(
        f"before the rewrites {before.params / 1e6:.4f} M, {before.macs_fvcore / 1e9:.4f} GMAC (fvcore), "
        f"{before.macs_torch / 1e9:.4f} GMAC (torch); after {after.params / 1e6:.4f} M, {after.macs_fvcore / 1e9:.4f}, "
        f"{after.macs_torch / 1e9:.4f}"
    )
    for key, reason in budget.unjudged.items():
        console.say(f"[bold red]{escape(key)}[/] can't be judged: {escape(reason)}")
    console.say("")
    _say_stages(budget)
    _say_graphs(budget)


def _say_stages(budget: BudgetReport) -> None:
    if not budget.stages:
        return
    title = "Stages: M parameters, GMAC by fvcore and by torch, each before and after the rewrites"
    table = plain_table(title, "", "params", "after", "fvcore", "after", "torch", "after")
    for stage in budget.stages:
        both = (stage.before, stage.after)
        table.add_row(
            stage.stage.replace("_", " "),
            *(f"{cost.params / 1e6:.4f}" for cost in both),
            *(f"{cost.macs_fvcore / 1e9:.4f}" for cost in both),
            *(f"{cost.macs_torch / 1e9:.4f}" for cost in both),
        )
    console.stderr.print(table)
    console.say("")


def _say_graphs(budget: BudgetReport) -> None:
    if budget.graphs and "graphs" in budget.notes:
        console.say(f"not counted: {escape(budget.notes['graphs'])}")
    if not budget.graphs:
        return
    table = plain_table(
        "Graphs, counted in the ONNX files", "", "GMAC per frame", "views", "M weights", "file, MB", "types"
    )
    for name, graph in budget.graphs.items():
        table.add_row(
            name,
            f"{graph.macs / 1e9:.4f}",
            str(graph.views),
            f"{graph.params / 1e6:.4f}",
            f"{graph.file_bytes / 1e6:.2f}",
            computed_in(graph),
        )
    console.stderr.print(table)
    console.say("")


def _say_score(result: BenchResult) -> None:
    if isinstance(result.score, UnsetType):
        if not isinstance(result.score_note, UnsetType):
            console.say(f"[bold]Score[/] {escape(result.score_note)}\n")
        return
    report = result.score
    columns = ("s_cls", "s_det", "s_seg", "s_acc")
    rows = [(name, scores, name) for name, scores in report.variants.items()]
    rows += [(f"PyTorch, {tta}", scores, "") for tta, scores in report.torch.items()]
    table = plain_table(f"Score on {rows[0][1].frames} frames", "", *columns, "s_final", "charged", "drop")
    for label, scores, name in rows:
        charged, drop = report.s_final_charged.get(name), report.drops.get(name)
        table.add_row(
            label,
            *(f"{getattr(scores, column):.4f}" for column in columns),
            f"[bold]{scores.s_final:.4f}[/]",
            "" if charged is None else f"{charged:.4f}",
            "" if drop is None else f"{drop:+.4f}",
        )
    console.stderr.print(table)
    first = rows[0][1]
    console.say(
        f"[dim]s_flops {first.s_flops:.4f}, s_params {first.s_params:.4f}; charged: s_final with every view charged[/]"
    )
    if report.torch_note:
        console.say(f"PyTorch was not scored: {escape(report.torch_note)}")
    if report.drops:
        console.say("[dim]drop: s_final below PyTorch's with the same views, by the answers alone[/]")
    console.say("")


def _say_latency(result: BenchResult, percentiles: Sequence[float]) -> None:
    if isinstance(result.latency, UnsetType):
        return
    keys = [percentile_key(percentile) for percentile in percentiles]
    heads = [key.removesuffix("_ms") for key in keys]
    table = plain_table("Latency in ms, frame in memory to answer", "", *heads, "max", "varies", "samples")
    for name, latency in result.latency.get("app", {}).items():
        table.add_row(
            name,
            *(percentile_cell(latency, key) for key in keys),
            f"{latency.max_ms:,.1f}",
            f"{latency.variation:.0%}",
            str(latency.samples),
        )
    console.stderr.print(table)
    _say_scopes(result.latency)
    backends = {} if isinstance(result.configuration, UnsetType) else result.configuration.engines
    for name, backend in backends.items():
        console.say(escape(f"{name} ran on {backend.name} {backend.version}, {backend.reason}"))
    if any(latency.missing_samples for latency in result.latency.get("app", {}).values()):
        console.say("[dim]so many more samples are needed before that percentile means something[/]")
    console.say("")


def _say_scopes(latency: Mapping[str, Mapping[str, Latency]]) -> None:
    """Medians of the scopes inside and around `app`; on a CPU `device` is `engine` and not said twice."""
    engine, device = latency.get("engine", {}), latency.get("device", {})
    repeated = {"device"} if all(engine.get(name) == told for name, told in device.items()) else set()
    scopes = [scope for scope in ("engine", "device", "app", "file") if scope in latency and scope not in repeated]
    table = plain_table("Median in ms by scope", "", *scopes)
    for name in latency.get("app", {}):
        cells = (percentile_cell(latency[scope][name], "p50_ms") if name in latency[scope] else "" for scope in scopes)
        table.add_row(name, *cells)
    console.stderr.print(table)


def _say_starts(result: BenchResult) -> None:
    if isinstance(result.process_start, UnsetType):
        return
    table = plain_table(
        "A fresh process, ms and MB", "", "import", "load", "first answer", "in all", "next", "peak memory", "starts"
    )
    for name, start in result.process_start.items():
        if start.problem:
            console.say(f"{name} did not start: {escape(start.problem)}")
            continue
        times = (start.import_ms, start.load_ms, start.first_answer_ms, start.start_to_answer_ms, start.next_answer_ms)
        table.add_row(
            name, *(f"{value:,.0f}" for value in times), f"{start.peak_memory_bytes / 1e6:,.0f}", str(start.starts)
        )
    if table.row_count:
        console.stderr.print(table)
    console.say("")


def _say_paced(result: BenchResult, percentiles: Sequence[float]) -> None:
    if isinstance(result.paced, UnsetType):
        return
    keys = [percentile_key(percentile) for percentile in percentiles]
    heads = [key.removesuffix("_ms") for key in keys]
    rate_hz = next(iter(result.paced.values())).rate_hz
    title = f"Paced at {rate_hz:g} Hz, ms from when a frame was due to its answer"
    table = plain_table(title, "", *heads, "max", "missed", "late", "busy")
    for name, paced in result.paced.items():
        table.add_row(
            name,
            *(percentile_cell(paced.latency, key) for key in keys),
            f"{paced.latency.max_ms:,.1f}",
            f"{paced.deadline_misses} of {paced.frames}",
            str(paced.late_starts),
            f"{paced.busy_share:.0%}",
        )
    console.stderr.print(table)
    console.say("")


def _say_throughput(result: BenchResult) -> None:
    if isinstance(result.throughput, UnsetType):
        return
    table = plain_table("Throughput, sessions side by side", "", "sessions", "threads each", "frames per second")
    for name, rows in result.throughput.items():
        for row in rows:
            table.add_row(name, str(row.sessions), str(row.threads), f"{row.frames_per_s:.2f}")
    console.stderr.print(table)
    console.say("")


def _say_energy(result: BenchResult) -> None:
    if not isinstance(result.energy, UnsetType):
        table = plain_table("Energy", "", "J per frame", "W", "W idle", "counter")
        for name, energy in result.energy.items():
            numbers = (energy.joules_per_frame, energy.watts, energy.idle_watts)
            table.add_row(name, *(f"{value:.2f}" for value in numbers), escape(energy.counter))
        console.stderr.print(table)
    if not isinstance(result.energy_note, UnsetType):
        console.say(f"[bold]Energy[/] {escape(result.energy_note)}")
    if not isinstance(result.energy, UnsetType) or not isinstance(result.energy_note, UnsetType):
        console.say("")


def _say_missing_backends(result: BenchResult) -> None:
    if not isinstance(result.missing_backends, UnsetType):
        for name, reason in result.missing_backends.items():
            console.say(f"backend {escape(name)} is missing: {escape(reason)}")


def percentile_cell(latency: Latency, key: str) -> str:
    """A percentile in milliseconds, or how many samples it lacks."""
    value = percentile_of(latency, key)
    return f"{latency.missing_samples[key]:,} more" if value is None else f"{value:,.1f}"


def _say_peers(result: BenchResult) -> None:
    if isinstance(result.peers, UnsetType):
        return
    table = plain_table("Time of a variant over a peer's, same frame, same round", "", "ratio", "quartiles", "rounds")
    for peer_name, peer in result.peers.items():
        for variant, ratio in peer.ratios.items():
            low, high = ratio.spread
            table.add_row(
                f"{variant} / {peer_name}",
                f"[bold]{ratio.ratio:.2f}x[/]",
                f"{low:.2f} to {high:.2f}",
                str(ratio.rounds),
            )
    if table.row_count:
        console.stderr.print(table)
    reasons = {peer.missing for peer in result.peers.values()}
    if len(reasons) == 1 and None not in reasons:
        console.say(f"all peers are missing: {escape(str(reasons.pop()))}")
    for peer_name, peer in result.peers.items():
        if peer.missing and reasons:
            console.say(f"{peer_name} is missing: {escape(peer.missing)}")
        elif peer.note and not peer.missing:
            console.say(f"{peer_name}: {escape(peer.note)}")
        if not isinstance(peer.agreement, UnsetType):
            agreement = peer.agreement
            console.say(
                f"{peer_name} answers: classes agree on {agreement.class_agreement:.0%} of {agreement.frames} frames, "
                f"mean parts IoU {agreement.parts_iou_mean:.4f} ({agreement.parts_near_mean:.1%} of the pixels within "
                f"{agreement.near_px} px), box within {agreement.box_px_median:.1f} px (median), "
                f"{agreement.box_px_max:.1f} px (max)"
            )
    console.say("")


def say_limits(result: BenchResult) -> None:
    """Print how near each variant comes to the machine's limit, and where the rest goes, if that was measured."""
    if isinstance(result.roofline, UnsetType):
        if not isinstance(result.roofline_note, UnsetType):
            console.say(f"[bold]Roofline[/] {escape(result.roofline_note)}\n")
        return
    report = result.roofline
    peaks = ", ".join(f"{it.precision} {it.gmacs_per_s:,.0f} ({it.backend})" for it in report.ceilings)
    rates = ", ".join(f"{it.gb_per_s:,.0f} ({it.working_set_bytes / 2**20:g} MiB)" for it in report.bandwidths)
    table = plain_table("Roofline: engine alone, ms", "", "limit", "bound by", "measured", "of the limit", "backend")
    for name, limit in report.variants.items():
        table.add_row(
            name,
            f"{limit.limit_ms:,.1f}",
            limit.bound,
            f"{limit.measured_ms:,.1f}",
            f"[bold]{limit.share:.0%}[/]",
            limit.backend,
        )
    console.stderr.print(table)
    console.say(f"[dim]peak GMAC/s: {peaks}; copy GB/s: {rates}[/]")
    for name, reason in report.missing.items():
        console.say(f"{name} has no limit: {escape(reason)}")
    console.say("")
    _say_profiles(report)


def _say_profiles(report: LimitReport) -> None:
    for name, profile in report.profiles.items():
        parts = plain_table(f"Where {name}'s time goes, {profile.backend}", "", "ms", "share")
        for key, label in WHERE.items():
            part_ms = profile.where_ms[key]
            parts.add_row(label, f"{part_ms:,.1f}", f"{part_ms / profile.profiled_ms:.0%}")
        console.stderr.print(parts)
        slowest = plain_table("", "slowest layers", "operator", "ms", "limit", "of the limit")
        for layer in profile.layers[:LAYERS_SHOWN]:
            share = f"{min(1.0, layer.limit_ms / layer.ms):.0%}" if layer.bound and layer.ms else ""
            slowest.add_row(escape(layer.name), layer.op, f"{layer.ms:,.2f}", f"{layer.limit_ms:,.2f}", share)
        console.stderr.print(slowest)
        if profile.layers_above_ceiling:
            console.say(
                f"[yellow]note[/] {profile.layers_above_ceiling} layers of {escape(name)} multiplied faster than the "
                "ceiling: it was measured while the machine was busy, and is too low"
            )
        console.say("")


def say_scaling(result: BenchResult) -> None:
    """Print what was measured of scaling, with the line through each curve."""
    if isinstance(result.scaling, UnsetType):
        return
    table = plain_table(f"Scaling, {result.scaling.backend}, {result.scaling.precision}", "", "ms", "quartiles", "GMAC")
    for curve in result.scaling.curves:
        for point in curve.points:
            low, high = point.spread_ms
            table.add_row(
                f"{curve.axis} {point.value:g}",
                f"{point.ms:,.1f}",
                f"{low:,.1f} to {high:,.1f}",
                f"{point.macs / 1e9:.2f}",
            )
    console.stderr.print(table)
    for curve in result.scaling.curves:
        if curve.fit is not None:
            fit = curve.fit
            console.say(
                f"{curve.axis}: {fit.fixed_ms:,.1f} ms + {fit.slope_ms:,.1f} ms x {fit.variable} "
                f"(R² {fit.r_squared:.3f}), growth with power {fit.exponent:.2f}"
            )
    for what, reason in result.scaling.skipped.items():
        console.say(f"{escape(what)} was not measured: {escape(reason)}")
    console.say("")
