"""Tables of the machine's limits, of a profile's layers, and of cost against sizes."""

from __future__ import annotations

from msgspec import UNSET

from spacecompile.benchmarks.limits.records import WHERE, LayerLimit, VariantProfile
from spacecompile.benchmarks.limits.scaling_records import ScalingCurve
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.page.table import Row, Table, columns_of, giga, mega

LAYERS_SHOWN = 12
"""Number of the slowest layers of a variant that are shown; the results file holds all of them."""


def limits_table(result: BenchResult) -> Table | None:
    """How near each variant comes to the machine's limit, or why that was not measured."""
    title, report = "Roofline: engine alone", result.roofline
    if report is UNSET:
        return None if result.roofline_note is UNSET else Table(title=title, notes=(result.roofline_note,))
    columns = columns_of(
        "variant | limit, ms | bound by: text | measured, ms | quartiles: detail | of the limit: meter bold | "
        "GMAC: detail | MB moved: detail | runs: detail | backend: text"
    )
    rows = tuple(
        Row(
            name,
            (
                f"{limit.limit_ms:,.1f}",
                limit.bound,
                f"{limit.measured_ms:,.1f}",
                _from_to(limit.measured_spread_ms),
                f"{100 * limit.share:.0f}",
                giga(sum(limit.macs.values()), 2),
                mega(limit.boundary_bytes, 1),
                str(limit.runs),
                limit.backend,
            ),
        )
        for name, limit in report.variants.items()
    )
    notes = tuple(f"{name} has no limit: {reason}" for name, reason in report.missing.items())
    return Table(title=title, columns=columns, rows=rows, notes=notes)


def ceilings_table(result: BenchResult) -> Table | None:
    """The fastest matrix product of each engine and precision."""
    if result.roofline is UNSET:
        return None
    columns = columns_of("best matrix product | precision: text | GMAC/s | runs")
    rows = tuple(
        Row(ceiling.backend, (ceiling.precision, f"{ceiling.gmacs_per_s:,.0f}", str(ceiling.runs)))
        for ceiling in result.roofline.ceilings
    )
    return Table(title="What the machine can do at most: peak GMAC/s", columns=columns, rows=rows)


def bandwidths_table(result: BenchResult) -> Table | None:
    """The fastest copy of each working set."""
    if result.roofline is UNSET:
        return None
    rungs = result.roofline.bandwidths
    sizes = (f"{rung.working_set_bytes / 2**20:,.0f} MiB" for rung in rungs)
    columns = columns_of(" | ".join(("best copy", *sizes)))
    rows = (Row("GB/s, read and written", tuple(f"{rung.gb_per_s:,.1f}" for rung in rungs)),)
    return Table(title="What the machine can do at most: copies", columns=columns, rows=rows)


def profile_tables(result: BenchResult) -> dict[str, Table]:
    """For each profiled variant where its time goes (`where NAME`) and its slowest layers (`layers NAME`)."""
    if result.roofline is UNSET:
        return {}
    tables = {}
    for name, profile in result.roofline.profiles.items():
        tables[f"where {name}"] = _where_table(name, profile)
        tables[f"layers {name}"] = _layers_table(name, profile)
    return tables


def _where_table(name: str, profile: VariantProfile) -> Table:
    rows = tuple(
        Row(label, (f"{part_ms:,.1f}", f"{100 * part_ms / profile.profiled_ms:.0f}"))
        for key, label in WHERE.items()
        for part_ms in (profile.where_ms[key],)
    )
    columns = columns_of(" | ms | share: percent")
    return Table(title=f"Where {name}'s time goes, {profile.backend}", columns=columns, rows=rows)


def _layers_table(name: str, profile: VariantProfile) -> Table:
    columns = columns_of(
        "slowest layers | operator: text | in: text detail | ms | of the run: percent detail | limit, ms | "
        "bound by: text detail | of the limit: percent | MMAC: detail | MB: detail"
    )
    rows = tuple(_layer_row(layer, profile.profiled_ms) for layer in profile.layers[:LAYERS_SHOWN])
    notes = [
        f"{profile.runs} runs; {100 * profile.macs_matched:.0f} % of the graph's multiply-adds are in layers that are "
        "known by name."
    ]
    if profile.layers_above_ceiling:
        notes.append(
            f"{profile.layers_above_ceiling} layers of {name} multiplied faster than the ceiling: it was measured "
            "while the machine was busy, and is too low."
        )
    title = f"{name} on {profile.backend}: the slowest of {len(profile.layers)} layers"
    return Table(title=title, columns=columns, rows=rows, notes=tuple(notes))


def _layer_row(layer: LayerLimit, profiled_ms: float) -> Row:
    share = f"{min(100.0, 100 * layer.limit_ms / layer.ms):.0f}" if layer.bound and layer.ms else ""
    return Row(
        layer.name,
        (
            layer.op,
            layer.precision,
            f"{layer.ms:,.2f}",
            f"{100 * layer.ms / profiled_ms:.1f}",
            f"{layer.limit_ms:,.2f}" if layer.bound else "",
            layer.bound or "",
            share,
            mega(layer.macs, 0) if layer.macs else "",
            mega(layer.moved_bytes, 1) if layer.moved_bytes else "",
        ),
    )


def scaling_table(result: BenchResult) -> Table | None:
    """The straight line through each curve, or its points where they allow none."""
    if result.scaling is UNSET:
        return None
    report = result.scaling
    columns = columns_of("against | line: text | R² | power | at: text")
    notes = tuple(f"{what} was not measured: {reason}" for what, reason in report.skipped.items())
    rows = tuple(map(_curve_row, (curve for curve in report.curves if curve.fit or curve.points)))
    title = f"Scaling, {report.backend}, {report.precision}"
    return Table(title=title, columns=columns, rows=rows, notes=notes)


def _curve_row(curve: ScalingCurve) -> Row:
    fit = curve.fit
    if fit is None:
        points = ", ".join(f"{point.ms:,.1f} ms at {point.value:g}" for point in curve.points)
        return Row(curve.axis, (curve.fixed,), points)
    line = f"{fit.fixed_ms:,.1f} ms + {fit.slope_ms:,.1f} ms x {fit.variable}"
    return Row(curve.axis, (line, f"{fit.r_squared:.3f}", f"{fit.exponent:.2f}", curve.fixed))


def scaling_points_table(result: BenchResult) -> Table | None:
    """Every measured point of every curve."""
    if result.scaling is UNSET:
        return None
    columns = columns_of(" | ms | quartiles | GMAC")
    rows = tuple(
        Row(f"{curve.axis} {point.value:g}", (f"{point.ms:,.1f}", _from_to(point.spread_ms), giga(point.macs, 2)))
        for curve in result.scaling.curves
        for point in curve.points
    )
    return Table(title="Points of the curves", columns=columns, rows=rows)


def _from_to(spread_ms: tuple[float, float]) -> str:
    return f"{spread_ms[0]:,.1f} to {spread_ms[1]:,.1f}"
