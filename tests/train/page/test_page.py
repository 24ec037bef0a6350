"""The page of a run: everything in one file, with the numbers of the run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from spacecompile import extras
from spacecompile.box_rule import BoxRule
from spacecompile.contract import ModelSpec
from spacecompile.errors import MissingPartError
from spacecompile.metrics import Scores
from spacecompile.train.page.gallery import WORST_FRAMES, Gallery
from spacecompile.train.page.page import render_page
from spacecompile.train.recipe import Recipe
from spacecompile.train.run import TrainJob, train

VOID = {"meta", "img", "br", "link"}


@pytest.fixture(scope="module")
def run(tiny_data: Path, still_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    recipe = Recipe(epochs=3, batch_size=8, lr=1e-3, encoder_lr_scale=1.0, lovasz_weight=0.3)
    train(
        TrainJob(
            data=tiny_data,
            output=output,
            recipe=recipe,
            init=still_checkpoint,
            device="cpu",
            limit_frames=16,
            command="spacecompile train --data '<tiny> & co'",
        )
    )
    return output


class Outline(HTMLParser):
    """Refuses a page whose elements don't close in order; gathers table rows."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} says something twice"
        if tag not in VOID:
            self.opened.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """It opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] in ("td", "th") and self.rows:
            self.rows[-1].append(data)


def test_it_is_one_sound_file_that_fetches_nothing(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(page)
    assert outline.opened == []
    assert "<script" not in page
    assert not re.search(r"https?://|url\((?!#)|@import", page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert "&lt;tiny&gt; &amp; co" in page


def test_its_numbers_are_those_of_the_run(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    facts = json.loads((run / "train.json").read_text())
    outline = Outline()
    outline.feed(page)
    scores = facts["scores"]
    for name in ("s_final", "s_acc", "s_seg", "s_det", "s_cls", "s_flops", "s_params"):
        assert f"<strong>{scores[name]:.4f}</strong><span>S{name[1:]}</span>" in page
    rows = {row[0]: row[1:] for row in outline.rows if len(row) == 5 and row[0] != "true class"}
    for name, found in scores["per_class"].items():
        assert rows[name] == [f"{found[key]:.4f}" for key in ("s_cls", "s_det", "s_seg")] + [str(found["frames"])]
    matrix = [row for row in outline.rows if len(row) == 11]
    assert sum(int(cell) for row in matrix for cell in row[1:] if cell.isdigit()) == scores["frames"]
    right = sum(int(row[1 + index]) for index, row in enumerate(matrix) if row[1 + index].isdigit())
    assert right / scores["frames"] == pytest.approx(scores["s_cls"])


def test_curves_and_the_worst_frames_are_drawn(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    for name in ("loss", "dice", "bce", "cls", "lovasz", "learning rate", "S_seg", "S_det"):
        assert f">{name}</text>" in page
    assert page.count('alt="Answer"') == page.count('alt="Truth"') == WORST_FRAMES


def test_without_its_extra_the_command_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    scores = Scores(s_cls=1, s_det=1, s_seg=1, s_acc=1, s_flops=1, s_params=1, s_final=1, frames=1)
    with pytest.raises(MissingPartError, match=r"pip install 'spacecompile\[report\]'"):
        render_page(facts={}, history=[], scores=scores, gallery=Gallery(spec=ModelSpec(), rule=BoxRule()))
