"""The figures of a benchmark's report. Needs the `report` extra."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spacecompile.benchmarks.latency.records import Latency, Paced, Ratio, Throughput
from spacecompile.page.figures import GRID, INK, MUTED, SERIES, WIDTH_IN, strip_frame, svg, wide_figure

OURS, THEIRS = SERIES[0], SERIES[1]
"""Variants and peers. Names stand in the figures, so that any number of contestants can be told apart."""

_JITTER_SEED = 0
_COLUMNS = 3
_RATIO_TICKS = (0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)


def latency_distribution(latencies: Mapping[str, Latency], peers: Collection[str] = ()) -> str:
    """Every sample of every contestant as a dot, with its median, on one logarithmic axis.

    Args:
        latencies: Samples by contestant, of at least one.
        peers: Names of the contestants that are no variants of the bundle.
    """
    names = list(latencies)
    figure, axes = wide_figure(0.9 + 0.56 * len(names))
    rng = np.random.default_rng(_JITTER_SEED)
    for row, name in enumerate(names):
        color = THEIRS if name in peers else OURS
        _dots(axes, row, latencies[name].samples_ms, color, rng)
        median_ms = latencies[name].p50_ms
        if median_ms is not None:
            axes.plot([median_ms] * 2, [row - 0.36, row + 0.36], color=color, lw=2.2, solid_capstyle="butt")
            axes.annotate(milliseconds(median_ms), (median_ms, row - 0.40), ha="center", va="bottom", color=INK)
    _rows(axes, names, above=0.75)
    _logarithmic(axes, [sample for latency in latencies.values() for sample in latency.samples_ms])
    axes.set_xlabel("milliseconds from frame in memory to answer; a dot is one sample, the line is the median")
    return svg(figure, "distribution")


def latency_over_time(latencies: Mapping[str, Latency], peers: Collection[str] = ()) -> str:
    """One small plot per contestant, its samples in the order of measurement over its median: drift and bursts show.

    Args:
        latencies: Samples by contestant, of at least one.
        peers: Names of the contestants that are no variants of the bundle.
    """
    columns = min(_COLUMNS, len(latencies))
    rows = -(-len(latencies) // columns)
    figure = Figure(figsize=(WIDTH_IN, 0.6 + 1.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    over_median = {name: np.asarray(one.samples_ms) / np.median(one.samples_ms) for name, one in latencies.items()}
    low, high = (float(edge([edge(shares) for shares in over_median.values()])) for edge in (np.min, np.max))
    for axes, (name, shares) in zip(grid, over_median.items(), strict=False):
        strip_frame(axes)
        order = 100 * (np.arange(len(shares)) + 0.5) / len(shares)
        axes.plot(order, shares, "-", lw=0.9, marker="o", ms=2.2, color=THEIRS if name in peers else OURS)
        axes.set_title(name, loc="left", fontsize=10, color=INK)
        axes.grid(axis="y", color=GRID, lw=0.6)
        axes.set_axisbelow(True)
    for axes in grid[len(latencies) :]:
        axes.set_visible(False)
    # All share their axes: what is set on the first holds for each.
    grid[0].set_yscale("log")
    grid[0].set_xlim(0, 100)
    grid[0].set_ylim(0.97 * low, 1.03 * high)
    ticks = _ratio_ticks(low, high)
    grid[0].set_yticks(ticks, [f"{tick:g}x" for tick in ticks])
    grid[0].minorticks_off()
    figure.supxlabel("percent of the run", fontsize=10, color=MUTED)
    figure.supylabel("sample over median", fontsize=10, color=MUTED)
    return svg(figure, "over-time")


def _ratio_ticks(low: float, high: float) -> list[float]:
    """1, and the round ratio nearest to either end where it stands clear of 1."""
    clear = (high / low) ** 0.18
    inside = [tick for tick in _RATIO_TICKS if low <= tick <= high and max(tick, 1 / tick) > clear]
    return sorted({1.0, *inside[:1], *inside[-1:]})


def ratio_chart(ratios: Sequence[tuple[str, Ratio]]) -> str:
    """Median ratio with its quartiles per pair of variant and peer, around 1, where both are equally fast."""
    figure, axes = wide_figure(0.9 + 0.32 * len(ratios))
    for row, (_, ratio) in enumerate(ratios):
        color = OURS if ratio.ratio <= 1 else THEIRS
        axes.plot(ratio.spread, [row, row], color=color, lw=5, alpha=0.45, solid_capstyle="round")
        axes.plot(ratio.ratio, row, "o", ms=7, mec="none", color=color)
        place = (max(ratio.ratio, *ratio.spread), row)
        axes.annotate(
            _ratio_text(ratio.ratio), place, xytext=(8, 0), textcoords="offset points", va="center", color=INK
        )
    _logarithmic(axes, [edge for _, ratio in ratios for edge in (*ratio.spread, 1.0)], beyond=1.3)
    axes.axvline(1, color=MUTED, lw=1.1, ls=(0, (4, 3)), zorder=0)
    _rows(axes, [name for name, _ in ratios], above=0.5)
    axes.set_xlabel("time of the variant over the peer's, quartiles as a band; dashed is equally fast")
    return svg(figure, "ratios")


def paced_chart(paced: Mapping[str, Paced]) -> str:
    """Every answer of the paced run as a dot, against the moment when the next frame was due."""
    figure, axes = wide_figure(0.9 + 0.5 * len(paced))
    rng = np.random.default_rng(_JITTER_SEED)
    deadlines_ms = [1e3 / one.rate_hz for one in paced.values()]
    for row, (one, deadline_ms) in enumerate(zip(paced.values(), deadlines_ms, strict=True)):
        held = [sample for sample in one.latency.samples_ms if sample <= deadline_ms]
        missed = [sample for sample in one.latency.samples_ms if sample > deadline_ms]
        _dots(axes, row, held, OURS, rng)
        _dots(axes, row, missed, THEIRS, rng)
        axes.plot([deadline_ms] * 2, [row - 0.42, row + 0.42], color=INK, lw=1.4, ls=(0, (3, 2)))
    _rows(axes, list(paced), above=0.55)
    _logarithmic(axes, [*deadlines_ms, *(sample for one in paced.values() for sample in one.latency.samples_ms)])
    axes.set_xlabel("milliseconds from when a frame was due to its answer; dashed: the next frame is due")
    return svg(figure, "paced")


def throughput_chart(throughput: Mapping[str, Sequence[Throughput]]) -> str:
    """One bar per variant and number of sessions."""
    bars = [(name, row) for name, rows in throughput.items() for row in rows]
    figure, axes = wide_figure(0.9 + 0.36 * len(bars))
    for row, (_, one) in enumerate(bars):
        axes.barh(row, one.frames_per_s, height=0.62, color=OURS)
        place = (one.frames_per_s, row)
        axes.annotate(
            f"{one.frames_per_s:.1f}", place, xytext=(6, 0), textcoords="offset points", va="center", color=INK
        )
    _rows(axes, [f"{name}, {one.sessions} x {one.threads}" for name, one in bars], above=0.6)
    axes.set_xlim(0, 1.12 * max(one.frames_per_s for _, one in bars))
    axes.grid(axis="x", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("frames per second; sessions x threads of each")
    return svg(figure, "throughput")


def _dots(axes: Axes, row: int, samples_ms: Sequence[float], color: str, rng: np.random.Generator) -> None:
    heights = row + rng.uniform(-0.26, 0.26, len(samples_ms))
    axes.plot(np.asarray(samples_ms), heights, "o", ms=3.4, mec="none", alpha=0.55, color=color)


def _rows(axes: Axes, names: Sequence[str], *, above: float) -> None:
    """One row per name, the first on top, with so much room above it."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -above)


def _logarithmic(axes: Axes, values: Sequence[float], *, beyond: float = 1.13) -> None:
    axes.set_xscale("log")
    axes.set_xlim(0.87 * min(values), beyond * max(values))
    axes.xaxis.set_major_formatter(plain_number)
    axes.xaxis.set_minor_formatter(sparse_number)
    axes.grid(axis="x", which="both", color=GRID, lw=0.6)
    axes.set_axisbelow(True)


def _ratio_text(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio >= 0.1 else f"{ratio:.3f}x"


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
