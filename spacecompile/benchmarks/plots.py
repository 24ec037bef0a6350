"""Figures of the report as inline SVG that follows the page's light or dark colours. Needs the `report` extra.

matplotlib draws with marker colours; each is replaced by a CSS variable of the page, so that one figure serves
both schemes. Text stays text, in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spacecompile.benchmarks.records import Latency, Ratio

# Marker colour in the drawing -> variable in the page.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    color: f"--series-{index}" for index, color in enumerate(SERIES, start=1)
}

WIDTH_IN = 9.2
_JITTER_SEED = 0


def latency_distribution(latencies: Mapping[str, Latency]) -> str:
    """Every sample of every contestant as a dot, with its median, on one logarithmic axis."""
    names = list(latencies)
    figure, axes = new_figure(0.9 + 0.62 * len(names))
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
    return svg_of(figure, "distribution")


def latency_over_time(latencies: Mapping[str, Latency]) -> str:
    """Samples in the order in which they were measured: drift and bursts show here."""
    figure, axes = new_figure(2.5)
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
    return svg_of(figure, "over-time")


def ratio_chart(ratios: Sequence[tuple[str, Ratio]]) -> str:
    """Median ratio with its quartiles per pair of variant and peer, around 1, where both are equally fast."""
    figure, axes = new_figure(0.9 + 0.52 * len(ratios))
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
    return svg_of(figure, "ratios")


def new_figure(height_in: float) -> tuple[Figure, Axes]:
    """A figure as wide as the page, without a frame."""
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = figure.add_subplot()
    strip_frame(axes)
    return figure, axes


def strip_frame(axes: Axes) -> None:
    """Leave of the frame what a reader needs."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(axis="both", which="both", length=0, colors=INK, labelsize=10)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)


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


def series_color(index: int) -> str:
    """Marker colour of a series; they come round again."""
    return SERIES[index % len(SERIES)]


def svg_of(figure: Figure, name: str) -> str:
    """The figure as markup for the inside of an HTML page."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    markup = stream.getvalue()
    # The prolog, the metadata and the namespaces are of no use inside HTML, and are addresses.
    markup = markup[markup.index("<svg") :]
    markup = re.sub(r"<metadata>.*?</metadata>", "", markup, flags=re.DOTALL)
    markup = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", markup).replace("xlink:href", "href")
    markup = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', markup, count=1)
    # Ids count per file, and several figures share one page.
    markup = re.sub(r'\bid="', f'id="{name}-', markup)
    markup = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", markup)
    markup = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", markup)
    for color, variable in _VARIABLES.items():
        markup = markup.replace(color, f"var({variable})")
    return markup.strip()
