"""The tables of limits, layers and scaling of `spacecompile bench` on stderr."""

from __future__ import annotations

from msgspec import UnsetType
from rich.markup import escape

from spacecompile.benchmarks.limit_records import WHERE, LimitReport
from spacecompile.benchmarks.records import BenchResult
from spacecompile.cli import console
from spacecompile.cli.rich_tables import plain_table

LAYERS_SHOWN = 8
"""The results file and the report hold all of them."""


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
