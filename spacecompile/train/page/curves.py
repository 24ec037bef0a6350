"""Curves of a run's page. Needs the `report` extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from spacecompile.page.figures import GRID, INK, MUTED, series_color, svg, wide_figure

SCORE_NAMES = {"s_seg": "S_seg", "s_det": "S_det", "s_cls": "S_cls", "s_acc": "S_acc"}


def loss_curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Every loss term over the epochs, on a logarithmic axis; the learning rate as a dashed line, on its own scale."""
    figure, axes = wide_figure(3.1)
    epochs = [line["epoch"] for line in history]
    names = list(dict.fromkeys(name for line in history for name in line["losses"]))
    for index, name in enumerate(names):
        # A Lovasz or a teacher's term can be zero, which has no logarithm.
        values = [line["losses"].get(name, np.nan) or np.nan for line in history]
        axes.plot(epochs, values, "-", lw=1.6, marker="o", ms=3, color=series_color(index), label=name)
    axes.set_yscale("log")
    rate_axes = axes.twinx()
    rate_axes.plot(epochs, [line["lr"] for line in history], color=MUTED, lw=1.1, ls=(0, (4, 3)), label="learning rate")
    rate_axes.set_ylim(0)
    rate_axes.set_yticks([])
    for side in rate_axes.spines.values():
        side.set_visible(False)
    _labelled(axes, "loss", extra=rate_axes)
    return svg(figure, "losses")


def score_curves(history: Sequence[Mapping[str, Any]]) -> str:
    """Validation scores over the epochs."""
    figure, axes = wide_figure(2.9)
    epochs = [line["epoch"] for line in history]
    for index, (name, label) in enumerate(SCORE_NAMES.items()):
        values = [line["scores"][name] for line in history]
        axes.plot(epochs, values, "-", lw=1.6, marker="o", ms=3, color=series_color(index), label=label)
    axes.set_ylim(0, 1.02)
    _labelled(axes, "validation score")
    return svg(figure, "scores")


def _labelled(axes: Axes, y_label: str, extra: Axes | None = None) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(y_label)
    axes.grid(axis="y", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    drawn = [line for part in (axes, extra) if part is not None for line in part.get_lines()]
    axes.legend(
        handles=drawn,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=len(drawn),
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
    )
