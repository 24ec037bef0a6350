"""Figures of limits, layers, scaling and the accuracy that speed costs, as inline SVG. Needs the `report` extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from spacecompile.benchmarks.limits.records import WHERE, LimitReport, VariantProfile
from spacecompile.benchmarks.limits.roofline import machine_from
from spacecompile.benchmarks.limits.scaling_fit import variable_of
from spacecompile.benchmarks.limits.scaling_records import Axis, ScalingCurve, ScalingReport
from spacecompile.benchmarks.report.plots import milliseconds, plain_number, sparse_number
from spacecompile.benchmarks.report.trade_offs import TradeOff
from spacecompile.page.figures import GRID, INK, MUTED, SERIES, WIDTH_IN, series_color, strip_frame, svg, wide_figure

# Operations per byte between which the roofs are drawn: a copy has none, a large product a thousand.
_INTENSITY = (0.05, 2000.0)
_LABEL_PERCENT_MIN = 5.0
_MARKERS = ("D", "s", "^", "v", "P", "X")
"""One per round of the colours: more variants than colours can still be told apart."""
_LEGEND_COLUMNS = 2
_LABEL_PT, _LETTER_PT, _POINT_PT = 13.0, 6.0, 6.0
"""Height of a name in a figure, width of one of its letters, and half the width of a point."""
_NAMED_MAX = 6
"""More variants than this have a number at their point and their name above the figure."""
_WHERE_COLORS = dict(zip(WHERE, (SERIES[0], SERIES[4], SERIES[2], SERIES[1], SERIES[3], SERIES[5]), strict=True))
_AXIS_LABELS: dict[Axis, str] = {
    "input": "side of the input, px",
    "frame": "height of the frame, px",
    "batch": "inputs per batch",
    "threads": "threads",
    "augmentation": "views",
}


def roofline_chart(report: LimitReport) -> str:
    """Roofs of the machine per precision, the whole variants under them, and each layer of a profile as a dot.

    How far below the roof of its precision a point lies is what its engine leaves.
    """
    legend_rows = -(-len(report.variants) // _LEGEND_COLUMNS)
    figure, axes = wide_figure(4.4 + 0.22 * legend_rows)
    intensity = np.geomspace(*_INTENSITY, 200)
    peaks = machine_from(report.ceilings, report.bandwidths).gmacs_per_s
    slowest = report.bandwidths[-1].gb_per_s
    for index, (precision, peak) in enumerate(peaks.items()):
        axes.plot(intensity, np.minimum(peak, intensity * slowest), color=series_color(index), lw=1.8)
        label = f"{precision}: {peak:,.0f} GMAC/s"
        axes.annotate(label, (_INTENSITY[1], peak), xytext=(-2, 4), textcoords="offset points", ha="right", color=INK)
    fastest = report.bandwidths[0].gb_per_s
    axes.plot(intensity, np.minimum(max(peaks.values()), intensity * fastest), color=MUTED, lw=1, ls=(0, (4, 3)))
    for name, profile in report.profiles.items():
        _layer_dots(axes, profile, series_color(list(report.profiles).index(name)))
    for index, (name, limit) in enumerate(report.variants.items()):
        macs = sum(limit.macs.values())
        place = (macs / limit.boundary_bytes, macs / limit.measured_ms / 1e6)
        label = f"{name}, {limit.share:.0%} of its limit"
        marker = _MARKERS[index // len(SERIES) % len(_MARKERS)]
        axes.plot(*place, marker, ms=9, color=series_color(index), mec=INK, mew=1.2, zorder=5, ls="none", label=label)
    if report.variants:
        figure.legend(loc="outside upper left", ncols=_LEGEND_COLUMNS, frameon=False, fontsize=9.5, labelcolor=INK)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for scale in (axes.xaxis, axes.yaxis):
        scale.set_major_formatter(plain_number)
    axes.set_xlim(*_INTENSITY)
    axes.grid(which="major", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("multiply-adds per byte that must move; dashed: from the first cache")
    axes.set_ylabel("GMAC/s")
    return svg(figure, "roofline")


def _layer_dots(axes: Axes, profile: VariantProfile, color: str) -> None:
    layers = [layer for layer in profile.layers if layer.macs and layer.moved_bytes and layer.ms]
    if layers:
        axes.scatter(
            [layer.macs / layer.moved_bytes for layer in layers],
            [layer.macs / layer.ms / 1e6 for layer in layers],
            s=[8 + 160 * layer.ms / profile.profiled_ms for layer in layers],
            color=color,
            alpha=0.45,
            linewidths=0,
        )


def where_chart(profiles: Mapping[str, VariantProfile]) -> str:
    """One bar per variant, its profiled time split into what the machine needs and what is lost, and where."""
    figure, axes = wide_figure(1.5 + 0.62 * len(profiles))
    for row, profile in enumerate(profiles.values()):
        start = 0.0
        for part, part_ms in profile.where_ms.items():
            percent = 100 * part_ms / profile.profiled_ms
            label = WHERE[part] if row == 0 else None
            axes.barh(row, percent, left=start, height=0.5, color=_WHERE_COLORS[part], label=label)
            if percent > _LABEL_PERCENT_MIN:
                # Above the bar, where it is read on every colour and in either scheme.
                axes.annotate(
                    milliseconds(part_ms), (start + percent / 2, row - 0.27), ha="center", va="bottom", color=INK
                )
            start += percent
    axes.set_yticks(range(len(profiles)), list(profiles))
    axes.set_ylim(len(profiles) - 0.6, -0.65)
    axes.set_xlim(0, 100)
    axes.set_xlabel("percent of one profiled run; the numbers are milliseconds")
    axes.grid(axis="x", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9.5, labelcolor=INK)
    return svg(figure, "where")


def scaling_chart(report: ScalingReport, aspect: float) -> str:
    """One small plot per curve: medians with their quartiles, and the fitted line.

    Args:
        report: Report with at least one curve.
        aspect: Width over height of the network's input.
    """
    rows = -(-len(report.curves) // 3)
    figure = Figure(figsize=(WIDTH_IN, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False).ravel()
    for axes, curve in zip(grid, report.curves, strict=False):
        strip_frame(axes)
        _curve(axes, curve, aspect)
    for axes in grid[len(report.curves) :]:
        axes.set_visible(False)
    return svg(figure, "scaling")


def _curve(axes: Axes, curve: ScalingCurve, aspect: float) -> None:
    values = [point.value for point in curve.points]
    errors = [
        [point.ms - point.spread_ms[0] for point in curve.points],
        [point.spread_ms[1] - point.ms for point in curve.points],
    ]
    axes.errorbar(
        values, [point.ms for point in curve.points], yerr=errors, fmt="o", ms=5, color=SERIES[0], elinewidth=1.4
    )
    if curve.fit is not None:
        fine = np.linspace(min(values), max(values), 80)
        line = [
            curve.fit.fixed_ms + curve.fit.slope_ms * variable_of(curve.axis, float(value), aspect) for value in fine
        ]
        axes.plot(fine, line, color=SERIES[1], lw=1.4)
    axes.set_ylim(bottom=0)
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.grid(axis="y", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(_AXIS_LABELS[curve.axis])
    axes.set_ylabel("ms")


def pareto_chart(offers: Sequence[TradeOff]) -> str:
    """Accuracy over latency; what no other variant beats in both is filled and joined."""
    figure, axes = wide_figure(3.4)
    front = sorted((offer for offer in offers if offer.on_front), key=lambda offer: offer.p50_ms)
    axes.plot(
        [offer.p50_ms for offer in front],
        [offer.s_acc for offer in front],
        color=MUTED,
        lw=1.2,
        ls=(0, (4, 3)),
        drawstyle="steps-post",
        zorder=1,
    )
    for offer in offers:
        face = SERIES[0] if offer.on_front else "none"
        axes.plot(offer.p50_ms, offer.s_acc, "o", ms=9, color=SERIES[0], mfc=face, mew=1.6)
    axes.set_xscale("log")
    times_ms = [offer.p50_ms for offer in offers]
    axes.set_xlim(0.8 * min(times_ms), 1.5 * max(times_ms))
    axes.margins(y=0.25)
    axes.xaxis.set_major_formatter(plain_number)
    axes.xaxis.set_minor_formatter(sparse_number)
    axes.grid(which="both", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("median milliseconds from frame in memory to answer; filled: no other is faster and more accurate")
    axes.set_ylabel("S_acc")
    if len(offers) <= _NAMED_MAX:
        _name_points(figure, axes, offers, [offer.name for offer in offers])
    else:
        numbers = [str(index + 1) for index in range(len(offers))]
        key = [
            Line2D([], [], ls="none", label=f"{number}  {offer.name}")
            for number, offer in zip(numbers, offers, strict=True)
        ]
        figure.legend(
            handles=key,
            loc="outside upper left",
            ncols=3,
            handlelength=0,
            handletextpad=0,
            frameon=False,
            fontsize=9.5,
            labelcolor=INK,
        )
        figure.set_figheight(3.4 + 0.2 * -(-len(offers) // 3))
        _name_points(figure, axes, offers, numbers)
    return svg(figure, "pareto")


def _name_points(figure: Figure, axes: Axes, offers: Sequence[TradeOff], names: Sequence[str]) -> None:
    """Write every name right of its point, as far up as it must not to cover another name or point."""
    figure.draw_without_rendering()  # only then have the points their places on the page
    pt_per_px = 72 / figure.dpi
    places = [axes.transData.transform((offer.p50_ms, offer.s_acc)) * pt_per_px for offer in offers]
    taken = [(x_pt - _POINT_PT, x_pt + _POINT_PT, y_pt) for x_pt, y_pt in places]
    for (x_pt, y_pt), offer, name in zip(places, offers, names, strict=True):
        left_pt, right_pt, height_pt = x_pt + _POINT_PT, x_pt + _POINT_PT + _LETTER_PT * (1 + len(name)), y_pt
        while any(left_pt < right and left < right_pt and abs(height_pt - at) < _LABEL_PT for left, right, at in taken):
            height_pt += 2
        taken.append((left_pt, right_pt, height_pt))
        offset_pt = (_POINT_PT + 2, height_pt - y_pt)
        place = (offer.p50_ms, offer.s_acc)
        axes.annotate(name, place, xytext=offset_pt, textcoords="offset points", va="center", color=INK)
