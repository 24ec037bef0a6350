"""The tables of `spacecompile bench` on stderr."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UnsetType
from rich.markup import escape

from spacecompile.benchmarks.records import BenchResult, Latency
from spacecompile.benchmarks.summary import percentile_key, percentile_of
from spacecompile.cli import console
from spacecompile.cli.bench_limits import say_limits, say_scaling
from spacecompile.cli.rich_tables import plain_table


def say_result(result: BenchResult, percentiles: Sequence[float]) -> None:
    """Print every section that was measured, and what to know about it.

    Args:
        result: To print.
        percentiles: Columns of the latency table.
    """
    _say_budget(result)
    _say_score(result)
    _say_latency(result, percentiles)
    _say_peers(result)
    say_limits(result)
    say_scaling(result)
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
        f"{after.macs_torch / 1e9:.4f}\n"
    )


def _say_score(result: BenchResult) -> None:
    if isinstance(result.score, UnsetType):
        if not isinstance(result.score_note, UnsetType):
            console.say(f"[bold]Score[/] {escape(result.score_note)}\n")
        return
    table = plain_table(
        "Score", "variant", "s_cls", "s_det", "s_seg", "s_acc", "s_flops", "s_params", "s_final", "frames"
    )
    for name, scores in result.score.variants.items():
        values = (scores.s_cls, scores.s_det, scores.s_seg, scores.s_acc, scores.s_flops, scores.s_params)
        table.add_row(name, *(f"{value:.4f}" for value in values), f"[bold]{scores.s_final:.4f}[/]", str(scores.frames))
    console.stderr.print(table)
    console.say("")


def _say_latency(result: BenchResult, percentiles: Sequence[float]) -> None:
    if isinstance(result.latency, UnsetType):
        return
    keys = [percentile_key(percentile) for percentile in percentiles]
    heads = [key.removesuffix("_ms") for key in keys]
    table = plain_table(
        "Latency in ms, frame in memory to answer", "", *heads, "max", "samples", "engine p50", "backend"
    )
    engines = result.latency.get("engine", {})
    backends = {} if isinstance(result.configuration, UnsetType) else result.configuration.engines
    for name, latency in result.latency.get("app", {}).items():
        engine = engines.get(name)
        table.add_row(
            name,
            *(percentile_cell(latency, key) for key in keys),
            f"{latency.max_ms:,.1f}",
            str(latency.samples),
            percentile_cell(engine, "p50_ms") if engine else "",
            escape(backends[name].name) if name in backends else "",
        )
    console.stderr.print(table)
    for name, backend in backends.items():
        console.say(escape(f"{name} ran on {backend.name} {backend.version}, {backend.reason}"))
    if any(latency.missing_samples for latency in result.latency.get("app", {}).values()):
        console.say("[dim]so many more samples are needed before that percentile means something[/]")
    console.say("")


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
    for peer_name, peer in result.peers.items():
        if peer.missing:
            console.say(f"{peer_name} is missing: {escape(peer.missing)}")
        if not isinstance(peer.agreement, UnsetType):
            agreement = peer.agreement
            console.say(
                f"{peer_name} answers: classes agree on {agreement.class_agreement:.0%} of {agreement.frames} frames, "
                f"mean parts IoU {agreement.parts_iou_mean:.4f} ({agreement.parts_near_mean:.1%} of the pixels within "
                f"{agreement.near_px} px), box within {agreement.box_px_median:.1f} px (median), "
                f"{agreement.box_px_max:.1f} px (max)"
            )
    console.say("")
