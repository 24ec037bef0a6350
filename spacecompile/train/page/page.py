"""One offline HTML page of a finished run: curves, confusion matrix, scores per class, the worst frames drawn.

No script, nothing fetched. Needs the `report` extra.

Layout legend: L classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spacecompile.extras import require_extra
from spacecompile.metrics import Scores
from spacecompile.page.html import page_from
from spacecompile.train.page.gallery import Gallery, JudgedFrame, picture

PAGE_NAME = "report.html"

_TEMPLATE = Path(__file__).with_name("templates") / "run.html.j2"


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One field of the confusion matrix: a count, and how strongly to shade it, 0 to 100."""

    frames: int
    share: int
    is_right: bool


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One frame as answered and as it is."""

    answer_jpeg: str
    truth_jpeg: str
    judged: JudgedFrame


def render_page(
    *, facts: Mapping[str, Any], history: Sequence[Mapping[str, Any]], scores: Scores, gallery: Gallery
) -> str:
    """The page.

    Args:
        facts: Content of the run's `train.json`.
        history: Content of the run's `history.jsonl`, one entry per epoch.
        scores: Scores of the stored checkpoint on all validation frames.
        gallery: Worst answers and confusion matrix on the same frames.

    Raises:
        MissingPartError: If the `report` extra is not installed.
    """
    require_extra("report", "the page of a run")
    from spacecompile.train.page import curves  # noqa: PLC0415 - matplotlib, only for the page

    return page_from(
        _TEMPLATE,
        figures={"losses": curves.loss_curves(history), "scores": curves.score_curves(history)},
        facts=facts,
        recipe=json.dumps(facts["recipe"], indent=2),
        epochs=len(history),
        scores=scores,
        classes=gallery.spec.classes,
        spec=gallery.spec,
        confusion=_confusion(gallery),
        pairs=[
            _Pair(answer_jpeg=picture(judged, of_truth=False), truth_jpeg=picture(judged, of_truth=True), judged=judged)
            for judged in gallery.worst
        ],
    )


def _confusion(gallery: Gallery) -> list[tuple[str, list[_Cell]]]:
    """One row per true class, shaded by the share of its frames."""
    rows = []
    for index, name in enumerate(gallery.spec.classes):
        counts_L = gallery.confusion_LL[index]
        shares_L = np.rint(100 * counts_L / max(1, counts_L.sum()))
        cells = [
            _Cell(frames=int(frames), share=int(share), is_right=column == index)
            for column, (frames, share) in enumerate(zip(counts_L, shares_L, strict=True))
        ]
        rows.append((name, cells))
    return rows
