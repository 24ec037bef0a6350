from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from msgspec import UNSET, UnsetType

from spacecompile import extras
from spacecompile.benchmarks import plots
from spacecompile.benchmarks.records import BenchResult, Failure, Peer
from spacecompile.benchmarks.report import render_report
from spacecompile.benchmarks.report_facts import key_figures
from spacecompile.errors import MissingPartError
from spacecompile.runtime.answer import Answer

SECTIONS = (
    "answers",
    "latency",
    "start",
    "paced",
    "throughput",
    "energy",
    "peers",
    "budget",
    "cost",
    "rewrites",
    "score",
    "parity",
    "circumstances",
)
FIGURES = (
    "figure-distribution",
    "figure-over-time",
    "figure-paced",
    "figure-throughput",
    "figure-ratios",
    "figure-pareto",
)


class Outline(HTMLParser):
    """Ids, text and addresses of a page; fails on a tag that is not closed."""

    VOID = frozenset({"meta", "img", "br", "link", "path", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.scripts = 0
        self.rows: dict[str, list[list[str]]] = {}
        self._section = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        if tag == "section":
            self._section = str(dict(attrs)["id"])
        if tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self.rows[self._section][-1].append("")
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
        if {"td", "th"} & set(self._open[-4:]):
            self.rows[self._section][-1][-1] = f"{self.rows[self._section][-1][-1]} {data}".strip()
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


@pytest.fixture(scope="module")
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


def row_of(page: str, section: str, *starts: str) -> list[str]:
    """The first row of a section's tables that begins with these cells."""
    rows = outline_of(page).rows[section]
    return next(row for row in rows if row[: len(starts)] == list(starts))


@pytest.mark.parametrize(
    ("section", "cells"),
    [
        ("start", ["fp32", "120", "410", "95", "625", "78", "48", "212", "3"]),
        ("throughput", ["fp32", "2", "1", "45", "3.0", "15.00"]),
        ("energy", ["fp32", "1.90", "24.0", "9.0", "50", "RAPL package-0"]),
        ("cost", ["encoder", "4.4827", "3.3963", "100.0 %", "4.4116", "3.3379", "3.4541", "3.3879"]),
        ("cost", ["fp32", "3.4000", "1", "3.3900", "13.53", "13.50", "fp32 100 %", "MatMul 59 %, Conv 41 %"]),
        ("budget", ["Drop of s_final, fp32", "-0.0021", "0", "0.0021", "", "holds"]),
        ("peers", ["ttach-d4", "PyTorch eager with ttach", "torch 2.15", "d4"]),
        ("peers", ["variant", "peer", "ratio", "quartiles", "pairs"]),
    ],
    ids=["start", "throughput", "energy", "stages", "graphs", "limit of zero", "peer", "pairs"],
)
def test_a_table_holds_its_row(page: str, section: str, cells: list[str]) -> None:
    assert row_of(page, section, *cells[:2]) == cells


def test_the_paced_run_shows_percentiles_deadline_and_misses(page: str, whole_result: BenchResult) -> None:
    assert not isinstance(whole_result.paced, UnsetType)
    latency = whole_result.paced["fp32"].latency
    numbers = [f"{value:.1f}" for value in (latency.p50_ms, latency.p90_ms) if value is not None]
    assert row_of(page, "paced", "fp32") == [
        "fp32",
        *numbers,
        "592 more",
        f"{latency.max_ms:.1f}",
        "200.0",
        "2 of 70",
        "1",
        "41 %",
    ]


def test_every_percentile_and_scope_has_its_column(page: str, whole_result: BenchResult) -> None:
    assert row_of(page, "latency", "ms")[1:6] == ["p50", "p90", "p99", "p99.9", "max"]
    assert row_of(page, "latency", "ms", "engine") == ["ms", "engine", "device", "app", "file"]
    assert not isinstance(whole_result.latency, UnsetType)
    medians = [f"{whole_result.latency[scope]['fp32'].p50_ms:.1f}" for scope in ("engine", "device", "app", "file")]
    assert ["fp32", *medians] in outline_of(page).rows["latency"]


def test_scores_show_what_views_cost_and_what_pytorch_reaches(page: str, whole_result: BenchResult) -> None:
    assert row_of(page, "score", "fp32")[-4:] == ["0.9122", "0.9107", "-0.0021", "40"]
    assert row_of(page, "score", "PyTorch, d4-median")[-4] == "0.9188"
    assert not isinstance(whole_result.score, UnsetType)
    noted = msgspec.structs.replace(whole_result.score, torch={}, torch_note="the checkpoint is gone")
    assert "the checkpoint is gone" in render_report(msgspec.structs.replace(whole_result, score=noted))


def test_every_verdict_names_its_backend(page: str) -> None:
    rows = [[row[1], row[-1]] for row in outline_of(page).rows["parity"] if row[0] == "fp32"]
    assert rows == [["onnxruntime 1.20", "passed"], ["openvino 2026.4", "failed"]]
    assert "a box edge is off by 3 px" in page


@pytest.mark.parametrize(
    "text",
    [
        "3,100 MHz before, 2,900 MHz after",
        "51 °C before, 88 °C after; throttled: 17 times",
        "stolen by a hypervisor: 1.2%; taken by other processes: 3.4%",
        "Flight GPU 3, driver 5",
        "1 unrecorded and 5 recorded calls of each contestant in a row",
        "backend openvino is missing: the package openvino is not installed",
        "the engine's call with its copies",
        "99.8 % in 4 px",
        "fvcore.nn.FlopCountAnalysis",
    ],
)
def test_the_circumstances_are_told(page: str, text: str) -> None:
    assert text in " ".join(outline_of(page).text)


def test_a_machine_that_tells_nothing_is_said_to(whole_result: BenchResult) -> None:
    silent = msgspec.structs.replace(whole_result.environment, machine=None)
    text = " ".join(outline_of(render_report(msgspec.structs.replace(whole_result, environment=silent))).text)
    assert "stolen by a hypervisor: not told by the system" in text


def test_a_limit_that_could_not_be_judged_is_in_the_table_and_at_the_top(whole_result: BenchResult) -> None:
    budget = msgspec.structs.replace(
        whole_result.budget,
        passed=False,
        unjudged={"memory_mb_max of fp32": "no process was started"},
        notes={"stages": "the checkpoint is not here"},
    )
    html = render_report(msgspec.structs.replace(whole_result, budget=budget))
    assert row_of(html, "budget", "memory_mb_max of fp32") == [
        "memory_mb_max of fp32",
        "no process was started",
        "not judged",
    ]
    assert "No stages: the checkpoint is not here" in html
    assert "Every limit holds" not in html
    assert "memory_mb_max of fp32 can&#39;t be judged" in html[: html.index("<nav")]


def test_the_error_of_a_result_stands_at_the_top(whole_result: BenchResult) -> None:
    failed = Failure(kind="BudgetError", message="budget exceeded: too slow", exit_code=6)
    html = render_report(msgspec.structs.replace(whole_result, error=failed))
    assert "budget exceeded: too slow" in html[: html.index("<nav")]
    assert "failed" not in render_report(whole_result).split("</style>")[1].split("<nav")[0]


@pytest.mark.parametrize("names", [("fp32@openvino", "fp32@onnxruntime"), ("fp32-d4",)], ids=["engines", "only d4"])
def test_the_key_figures_are_of_the_first_variant_that_was_measured(
    whole_result: BenchResult, names: tuple[str, ...]
) -> None:
    assert isinstance(whole_result.latency, dict)
    assert not isinstance(whole_result.peers, UnsetType)
    app = whole_result.latency["app"]
    measured = dict.fromkeys(names, app["fp32"]) | {"plain-export": app["plain-export"]}
    ratio = whole_result.peers["plain-export"].ratios["fp32"]
    peers = {
        f"peer-{index}": Peer(
            label="",
            ratios=dict.fromkeys(names, msgspec.structs.replace(ratio, ratio=0.1 + index)),
        )
        for index in range(7)
    } | {"plain-export": whole_result.peers["plain-export"]}
    result = msgspec.structs.replace(whole_result, latency={"engine": {}, "app": measured}, peers=peers)
    figures = key_figures(result)
    assert figures[0].label == f"median, {names[0]}, frame to answer"
    assert [figure.value for figure in figures if figure.unit == "x"] == ["6.10", "0.10"]
    assert len(figures) <= 7


def test_a_variant_that_augments_is_set_against_peers_that_do(whole_result: BenchResult) -> None:
    assert isinstance(whole_result.latency, dict)
    app = {name: latency for name, latency in whole_result.latency["app"].items() if name != "fp32"}
    result = msgspec.structs.replace(whole_result, latency={"engine": {}, "app": app})
    assert [(one.value, one.label) for one in key_figures(result) if one.unit == "x"] == [
        ("0.44", "the time of ttach-d4, its peer")
    ]


def test_eleven_contestants_are_all_named_in_every_figure(crowded_result: BenchResult) -> None:
    page = render_report(crowded_result)
    assert isinstance(crowded_result.latency, dict)
    names = list(crowded_result.latency["app"])
    assert len(names) == 11
    for figure in ("distribution", "over-time", "pareto", "roofline"):
        start = page.index(f'id="figure-{figure}"')
        drawn = re.findall(r"<text[^>]*>([^<]*)</text>", page[start : page.index("</svg>", start)])
        assert {name for name in names if any(name in text for text in drawn)} == set(names), figure


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
        ({"cold_start": UNSET, "process_start": UNSET}, {"start"}),
        ({"paced": UNSET, "throughput": UNSET}, {"paced", "throughput"}),
        ({"energy": UNSET}, {"energy"}),
        ({"energy": UNSET, "energy_note": "n/a: no counter"}, set()),
        ({"score": UNSET, "score_note": "Not measured: give frames"}, set()),
        ({"parity": UNSET}, set()),
        ({"parity": {"an": "older form"}}, set()),
        ({"peers": UNSET, "cold_start": UNSET}, {"peers"}),
    ],
    ids=[
        "no latency",
        "no start",
        "no pace",
        "no energy",
        "energy note",
        "no score",
        "no certificate",
        "another certificate",
        "no peers",
    ],
)
def test_an_absent_section_is_left_out_or_says_why(
    whole_result: BenchResult, absent: dict[str, object], sections: set[str]
) -> None:
    html = render_report(msgspec.structs.replace(whole_result, **absent))
    assert set(SECTIONS) - set(outline_of(html).ids) == sections | {"answers"}
    for name, note in absent.items():
        if name.endswith("_note"):
            assert str(note) in html


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
