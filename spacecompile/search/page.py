"""A search as one offline HTML page, and its Pareto plot as PNG. Needs the `report` extra."""

from __future__ import annotations

import io
import re
from importlib.resources import files
from pathlib import Path

import jinja2
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spacecompile.search.results import Outcome, SearchResult

_TEMPLATES = Path(__file__).with_name("templates")
_MARKERS = "osD^vP*X"
_DONE, _STOPPED, _FRONTIER, _KNEE = "#2257c5", "#8b8b8b", "#7a9ce6", "#c2661a"


def png_of(result: SearchResult) -> bytes:
    """Accuracy against efficiency as PNG, 150 dots per inch."""
    stream = io.BytesIO()
    _figure(result).savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()


def page_of(result: SearchResult) -> str:
    """The page: plot, table of every candidate, circumstances. No script, nothing fetched."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = files("spacecompile.benchmarks").joinpath("templates/report.css").read_text(encoding="utf-8")
    plot = _svg(result) if result.kind == "architectures" else ""
    return environment.get_template("search.html.j2").render(result=result, style=style, plot=plot)


def _svg(result: SearchResult) -> str:
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "search"}):
        _figure(result).savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    markup = stream.getvalue()
    # The prolog, the metadata and the namespaces are of no use inside HTML, and are addresses.
    markup = re.sub(r"<metadata>.*?</metadata>", "", markup[markup.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", markup).replace("xlink:href", "href")


def _figure(result: SearchResult) -> Figure:
    figure = Figure(figsize=(9.2, 6.0), layout="constrained")
    axes = figure.add_subplot()
    scored = [outcome for outcome in result.outcomes if outcome.s_final >= 0]
    encoders = sorted({outcome.candidate.model_spec().encoder for outcome in scored})
    for outcome in scored:
        _draw_point(axes, outcome, marker=_MARKERS[encoders.index(_encoder_of(outcome)) % len(_MARKERS)])
    _draw_frontier(axes, result, {outcome.candidate.name: outcome for outcome in scored})
    for index, encoder in enumerate(encoders):
        axes.plot([], [], _MARKERS[index % len(_MARKERS)], color=_DONE, label=encoder)
    axes.set_xlabel("efficiency: mean of S_flops and S_params after the exact rewrites")
    axes.set_ylabel("accuracy: S_acc")
    axes.grid(color="#e2e0da", lw=0.6)
    axes.margins(0.12)
    axes.legend(frameon=False, loc="best")
    return figure


def _encoder_of(outcome: Outcome) -> str:
    return outcome.candidate.model_spec().encoder


def _draw_point(axes: Axes, outcome: Outcome, *, marker: str) -> None:
    assert outcome.scores is not None  # only scored ones are drawn
    point = (outcome.s_efficiency, outcome.scores.s_acc)
    axes.plot(*point, marker, ms=8, color=_DONE if outcome.status == "done" else _STOPPED, mec="none", zorder=3)
    label = outcome.candidate.name.removesuffix(f"-{_encoder_of(outcome)}")
    axes.annotate(label, point, xytext=(6, 5), textcoords="offset points", fontsize=8.5)


def _draw_frontier(axes: Axes, result: SearchResult, by_name: dict[str, Outcome]) -> None:
    points = [
        (outcome.s_efficiency, outcome.scores.s_acc) for name in result.frontier if (outcome := by_name[name]).scores
    ]
    axes.plot([x for x, _ in points], [y for _, y in points], "-", color=_FRONTIER, lw=1.6, label="Pareto frontier")
    if result.knee and (knee := by_name[result.knee]).scores:
        axes.plot(
            knee.s_efficiency, knee.scores.s_acc, "o", ms=18, mfc="none", mec=_KNEE, mew=2, label=f"knee: {result.knee}"
        )
