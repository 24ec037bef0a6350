from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from msgspec import UNSET

from spacecompile import extras
from spacecompile.benchmarks import plots
from spacecompile.benchmarks.records import BenchResult
from spacecompile.benchmarks.report import render_report
from spacecompile.errors import MissingPartError
from spacecompile.runtime.answer import Answer

SECTIONS = ("answers", "latency", "peers", "budget", "rewrites", "score", "parity", "circumstances")
FIGURES = ("figure-distribution", "figure-over-time", "figure-ratios", "figure-pareto")


class Outline(HTMLParser):
    """Ids, text and addresses of a page; fails on a tag that is not closed."""

    VOID = frozenset({"meta", "img", "br", "link", "path", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.scripts = 0
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "srcset", "action"):
                self.addresses.append(str(value))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(" ".join(data.split()))

    def close(self) -> None:
        super().close()
        assert not self._open


def outline_of(html: str) -> Outline:
    outline = Outline()
    outline.feed(html)
    outline.close()
    return outline


def an_answer() -> Answer:
    parts_HW = np.zeros((64, 64), np.uint8)
    parts_HW[20:40, 20:40] = 1
    return Answer(
        class_name="Cheops",
        class_index=0,
        class_probs=np.asarray([0.9, 0.1], np.float32),
        classes=("Cheops", "Soho"),
        box_xyxy=np.asarray([20, 20, 40, 40], np.float32),
        parts_HW=parts_HW,
        health={"body_px": 400.0, "panel_px": 0.0},
        flags=("dark_frame",),
    )


@pytest.fixture
def page(whole_result: BenchResult) -> str:
    return render_report(whole_result, [(np.zeros((64, 64, 3), np.uint8), an_answer())])


def test_the_page_holds_every_section_and_figure(page: str) -> None:
    outline = outline_of(page)
    assert {*SECTIONS, *FIGURES} <= set(outline.ids) | set(re.findall(r'id="([^"]+)"', page))
    assert page.count("<svg") == len(FIGURES)
    assert page.count("data:image/jpeg;base64,") == 1


def test_the_page_fetches_nothing_and_runs_nothing(page: str) -> None:
    outline = outline_of(page)
    assert "http" not in page
    assert "@import" not in page
    assert outline.scripts == 0
    assert all(address.startswith(("#", "data:")) for address in outline.addresses)
    assert all(address.startswith(("#", "data:")) for address in re.findall(r"url\(([^)]*)\)", page))


def test_ids_are_unique_and_every_reference_has_its_target(page: str) -> None:
    ids = outline_of(page).ids
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets <= set(ids)


def test_the_numbers_of_the_result_are_on_the_page(page: str, whole_result: BenchResult) -> None:
    text = " ".join(outline_of(page).text)
    assert isinstance(whole_result.latency, dict)
    p50_ms = whole_result.latency["app"]["fp32"].p50_ms
    for number in (
        f"{p50_ms:.1f}",
        "592 more",
        "0.667",
        "3.3963",
        "3,387,884",
        "1.5e-15",
        "0.9122",
        "0.99987",
        "2.1e-07",
    ):
        assert number in text, number
    for name in ("fp32-d4", "plain-export", "the package torch is not installed", "Flight Processor 9", "f" * 40):
        assert name in text, name
    for name in ("openvino 2026.4, auto: the fastest", "onnxruntime 1.20, auto: the only one", "pip install openvino"):
        assert name in text, name


def test_a_median_below_its_floor_is_not_drawn(whole_result: BenchResult) -> None:
    assert isinstance(whole_result.latency, dict)
    app = whole_result.latency["app"]
    few = msgspec.structs.replace(app["fp32"], p50_ms=None)
    drawn = plots.latency_distribution({"fp32": app["fp32"]})
    assert f">{app['fp32'].p50_ms:.0f}<" in drawn
    assert f">{app['fp32'].p50_ms:.0f}<" not in plots.latency_distribution({"fp32": few})


@pytest.mark.parametrize(
    ("absent", "sections"),
    [
        ({"latency": UNSET, "peers": UNSET, "configuration": UNSET, "cold_start": UNSET}, {"latency", "peers"}),
        ({"score": UNSET, "score_note": "Not measured: give frames"}, set()),
        ({"parity": UNSET}, set()),
        ({"parity": {"an": "older form"}}, set()),
        ({"peers": UNSET, "cold_start": UNSET}, {"peers"}),
    ],
    ids=["no latency", "no score", "no certificate", "another certificate", "no peers"],
)
def test_an_absent_section_is_left_out_or_says_why(
    whole_result: BenchResult, absent: dict[str, object], sections: set[str]
) -> None:
    html = render_report(msgspec.structs.replace(whole_result, **absent))
    assert set(SECTIONS) - set(outline_of(html).ids) == sections | {"answers"}
    if "score_note" in absent:
        assert str(absent["score_note"]) in html


def test_a_partial_result_says_so_at_the_top(whole_result: BenchResult) -> None:
    assert "interrupted" not in render_report(whole_result)
    assert "interrupted" in render_report(msgspec.structs.replace(whole_result, partial=True))


def test_names_from_a_bundle_are_text_never_markup(whole_result: BenchResult) -> None:
    subject = msgspec.structs.replace(whole_result.subject, bundle="<script>alert(1)</script>")
    html = render_report(msgspec.structs.replace(whole_result, subject=subject))
    assert outline_of(html).scripts == 0
    assert "&lt;script&gt;" in html


def test_figures_are_well_formed_and_follow_the_page_s_colours(whole_result: BenchResult) -> None:
    assert isinstance(whole_result.latency, dict)
    app = whole_result.latency["app"]
    for markup in (plots.latency_distribution(app), plots.latency_over_time(app)):
        ElementTree.fromstring(markup)
        assert "var(--ink)" in markup
        assert "var(--series-1)" in markup
        assert not re.search(r"#0(10101|20202|30303|a000\d)", markup)


def test_the_same_result_gives_the_same_page(whole_result: BenchResult) -> None:
    assert render_report(whole_result) == render_report(whole_result)


def test_without_the_extra_the_command_that_adds_it_is_named(
    whole_result: BenchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "matplotlib" else object())
    with pytest.raises(MissingPartError, match=r"matplotlib.*spacecompile\[report\]") as caught:
        render_report(whole_result)
    assert "jinja2" not in str(caught.value)
