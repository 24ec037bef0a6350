from __future__ import annotations

import re
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from msgspec import UNSET, UnsetType
from page_outline import outline_of, row_of

from spacecompile import extras
from spacecompile.benchmarks.report import plots
from spacecompile.benchmarks.report.page import render_report
from spacecompile.benchmarks.result_records import BenchResult
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


@pytest.mark.parametrize(
    ("section", "cells"),
    [
        ("start", ["fp32", "120", "410", "95", "625", "78", "48", "212", "3"]),
        ("throughput", ["fp32", "2", "1", "45", "3.0", "15.00"]),
        ("energy", ["fp32", "1.90", "24.0", "9.0", "50", "RAPL package-0"]),
        ("cost", ["encoder", "4.4827", "3.3963", "100.0 %", "4.4116", "3.3379", "3.4541", "3.3879"]),
        ("cost", ["fp32", "3.4000", "1", "3.3900", "13.53", "13.50", "100% fp32", "MatMul 59 %, Conv 41 %"]),
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


def test_what_a_peer_does_otherwise_and_why_one_left_the_race_are_on_the_page(whole_result: BenchResult) -> None:
    assert isinstance(whole_result.peers, dict)
    noted = msgspec.structs.replace(whole_result.peers["ttach-d4"], note="the box head is not run")
    gone = msgspec.structs.replace(whole_result.peers["plain-export"], ratios={}, missing="it fails here: MemoryError")
    peers = {**whole_result.peers, "ttach-d4": noted, "plain-export": gone}
    html = render_report(msgspec.structs.replace(whole_result, peers=peers))
    rows = outline_of(html).rows["peers"]
    assert [
        "ttach-d4",
        "PyTorch eager with ttach; unlike the variants: the box head is not run",
        "torch 2.15",
        "d4",
    ] in (rows)
    assert ["plain-export", "missing: it fails here: MemoryError"] in rows
    assert ["plain-export", "plain smp export", "onnxruntime 1.20", "none"] in rows
    assert "same task" in next(row for row in rows if row[0] == "plain-export")


def test_a_note_beside_counted_graphs_says_what_was_not_counted(whole_result: BenchResult) -> None:
    notes = {"graphs": "plan: model.plan is no ONNX file"}
    noted = msgspec.structs.replace(whole_result.budget, notes=notes)
    html = render_report(msgspec.structs.replace(whole_result, budget=noted))
    assert "Not counted: plan: model.plan is no ONNX file" in html
    assert "No graphs" not in html
    without = msgspec.structs.replace(noted, graphs={})
    assert "No graphs: plan" in render_report(msgspec.structs.replace(whole_result, budget=without))


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
