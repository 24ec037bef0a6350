"""A search as one offline HTML page, and its Pareto plot as PNG. Needs the `report` extra."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from spacecompile.page.figures import GRID, INK, MUTED, SERIES, svg, wide_figure
from spacecompile.page.html import page_from
from spacecompile.search.results import Outcome, SearchResult

_TEMPLATE = Path(__file__).with_name("templates") / "search.html.j2"
_MARKERS = "osD^vP*X"
_PNG_SERIES = ("#2257c5", "#c2661a", "#2f855a", "#8a4f9e", "#b5475b", "#52616b")
_PNG_GRID = "#e2e0da"
_STOPPED_ALPHA = 0.35
_SIDES = (((6, 5), "left"), ((-6, 5), "right"), ((6, -12), "left"), ((-6, -12), "right"), ((6, 17), "left"))


def png_of(result: SearchResult) -> bytes:
    """Accuracy against efficiency as PNG, 150 dots per inch."""
    stream = io.BytesIO()
    _figure(result, _PNG_SERIES, _PNG_GRID).savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()


def page_of(result: SearchResult) -> str:
    """The page: plot, table of every candidate, circumstances. No script, nothing fetched."""
    figures = {}
    if result.kind == "architectures":
        figures["search"] = svg(_figure(result, SERIES, GRID), "search")
    return page_from(_TEMPLATE, figures=figures, result=result)


def _figure(result: SearchResult, series: Sequence[str], grid: str) -> Figure:
    figure, axes = wide_figure(6.0)
    scored = [outcome for outcome in result.outcomes if outcome.s_final >= 0]
    encoders = sorted({_encoder_of(outcome) for outcome in scored})
    for index, encoder in enumerate(encoders):
        look: dict[str, Any] = {
            "marker": _MARKERS[index % len(_MARKERS)],
            "color": series[index % len(series)],
            "mec": "none",
            "ms": 8,
        }
        for outcome in scored:
            if _encoder_of(outcome) == encoder:
                pale = 1.0 if outcome.status == "done" else _STOPPED_ALPHA
                axes.plot(*_point(outcome), **look, alpha=pale, zorder=3)
        axes.plot([], [], **look, ls="none", label=encoder)
    _draw_frontier(axes, result, {outcome.candidate.name: outcome for outcome in scored})
    axes.set_xlabel("efficiency: mean of S_flops and S_params after the exact rewrites")
    axes.set_ylabel("accuracy: S_acc")
    axes.grid(color=grid, lw=0.6)
    axes.margins(0.12)
    axes.legend(frameon=False, loc="best", labelcolor=INK)
    _label(figure, axes, scored)
    return figure


def _encoder_of(outcome: Outcome) -> str:
    return outcome.candidate.model_spec().encoder


def _point(outcome: Outcome) -> tuple[float, float]:
    assert outcome.scores is not None  # only scored ones are drawn
    return outcome.s_efficiency, outcome.scores.s_acc


def _label(figure: Figure, axes: Axes, scored: Sequence[Outcome]) -> None:
    """Name every point on the first side of it where nothing that is named already lies."""
    canvas = FigureCanvasAgg(figure)
    # Lays the axes out; positions count from here on.
    canvas.draw()  # type: ignore[no-untyped-call]
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in axes.transData.transform([*map(_point, scored)])]
    for outcome in scored:
        name = outcome.candidate.name.removesuffix(f"-{_encoder_of(outcome)}")
        for offset_pt, side in _SIDES:
            text = axes.annotate(
                name, _point(outcome), xytext=offset_pt, textcoords="offset points", fontsize=8.5, ha=side, color=INK
            )
            box = text.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken) or offset_pt == _SIDES[-1][0]:
                taken.append(box)
                break
            text.remove()


def _draw_frontier(axes: Axes, result: SearchResult, by_name: dict[str, Outcome]) -> None:
    points = [
        (outcome.s_efficiency, outcome.scores.s_acc) for name in result.frontier if (outcome := by_name[name]).scores
    ]
    axes.plot([x for x, _ in points], [y for _, y in points], "-", color=MUTED, lw=1.6, label="Pareto frontier")
    if result.knee and (knee := by_name[result.knee]).scores:
        axes.plot(
            knee.s_efficiency, knee.scores.s_acc, "o", ms=18, mfc="none", mec=INK, mew=1.5, label=f"knee: {result.knee}"
        )
