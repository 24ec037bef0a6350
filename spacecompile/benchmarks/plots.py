"""The figures of a benchmark's report. Needs the `report` extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from spacecompile.benchmarks.records import Latency, Ratio
from spacecompile.figures import GRID, INK, MUTED, SERIES, series_color, svg, wide_figure

_JITTER_SEED = 0


def latency_distribution(latencies: Mapping[str, Latency]) -> str:
    """Every sample of every contestant as a dot, with its median, on one logarithmic axis."""
    names = list(latencies)
    figure, axes = wide_figure(0.9 + 0.62 * len(names))
    rng = np.random.default_rng(_JITTER_SEED)
    for row, name in enumerate(names):
        samples_ms = np.asarray(latencies[name].samples_ms)
        heights = row + rng.uniform(-0.26, 0.26, len(samples_ms))
        axes.plot(samples_ms, heights, "o", ms=3.4, mec="none", alpha=0.55, color=series_color(row))
        median_ms = latencies[name].p50_ms
        if median_ms is not None:
            axes.plot([median_ms] * 2, [row - 0.36, row + 0.36], color=series_color(row), lw=2.2, solid_capstyle="butt")
            axes.annotate(milliseconds(median_ms), (median_ms, row - 0.40), ha="center", va="bottom", color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.75)
    _logarithmic(axes, [sample for latency in latencies.values() for sample in latency.samples_ms])
    axes.set_xlabel("milliseconds from frame in memory to answer; a dot is one sample, the line is the median")
    return svg(figure, "distribution")


def latency_over_time(latencies: Mapping[str, Latency]) -> str:
    """Samples in the order in which they were measured: drift and bursts show here."""
    figure, axes = wide_figure(2.5)
    for index, (name, latency) in enumerate(latencies.items()):
        share = (np.arange(latency.samples) + 0.5) / latency.samples
        axes.plot(
            share * 100, latency.samples_ms, "-", lw=0.9, marker="o", ms=2.2, color=series_color(index), label=name
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(plain_number)
    axes.yaxis.set_minor_formatter(sparse_number)
    axes.set_xlim(0, 100)
    axes.set_xlabel("percent of the run")
    axes.set_ylabel("ms")
    axes.grid(axis="y", color=GRID, lw=0.6)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=6, frameon=False, fontsize=9.5, labelcolor=INK)
    return svg(figure, "over-time")


def ratio_chart(ratios: Sequence[tuple[str, Ratio]]) -> str:
    """Median ratio with its quartiles per pair of variant and peer, around 1, where both are equally fast."""
    figure, axes = wide_figure(0.9 + 0.52 * len(ratios))
    for row, (_, ratio) in enumerate(ratios):
        color = SERIES[0] if ratio.ratio <= 1 else SERIES[5]
        axes.plot(ratio.spread, [row, row], color=color, lw=5, alpha=0.45, solid_capstyle="round")
        axes.plot(ratio.ratio, row, "o", ms=8, mec="none", color=color)
        axes.annotate(f"{ratio.ratio:.2f}x", (ratio.ratio, row - 0.2), ha="center", va="bottom", color=INK)
    edges = [edge for _, ratio in ratios for edge in (*ratio.spread, 1.0)]
    _logarithmic(axes, edges)
    axes.axvline(1, color=MUTED, lw=1.1, ls=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(ratios)), [name for name, _ in ratios])
    axes.set_ylim(len(ratios) - 0.5, -0.75)
    axes.set_xlabel("time of the variant over the peer's, quartiles as a band; dashed is equally fast")
    return svg(figure, "ratios")


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(0.87 * min(values), 1.13 * max(values))
    axes.xaxis.set_major_formatter(plain_number)
    axes.xaxis.set_minor_formatter(sparse_number)
    axes.grid(axis="x", which="both", color=GRID, lw=0.6)
    axes.set_axisbelow(True)


def milliseconds(value_ms: float) -> str:
    """As many digits as a label needs."""
    return f"{value_ms:,.0f}" if value_ms >= 20 else f"{value_ms:.1f}"


def plain_number(value: float, _position: float) -> str:
    """Label of a power of ten."""
    return f"{value:,g}"


def sparse_number(value: float, _position: float) -> str:
    """Labels between the powers of ten: 2, 3 and 5 of each."""
    leading = round(value / 10 ** np.floor(np.log10(value)), 6)
    return f"{value:,g}" if leading in (2, 3, 5) else ""
