"""Figures as inline SVG that follow a page's light or dark colours. Needs the `report` extra.

matplotlib draws with marker colours; each is replaced by a CSS variable of the page, so that one figure serves
both schemes. Text stays text, in the page's font.
"""

from __future__ import annotations

import io
import re

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Marker colour in the drawing -> variable in the page.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    color: f"--series-{index}" for index, color in enumerate(SERIES, start=1)
}

WIDTH_IN = 9.2


def wide_figure(height_in: float) -> tuple[Figure, Axes]:
    """An empty figure as wide as a page, with one pair of axes."""
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


def series_color(index: int) -> str:
    """Colour of the series with this index, from 0; after the last colour they come round."""
    return SERIES[index % len(SERIES)]


def svg(figure: Figure, name: str) -> str:
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
