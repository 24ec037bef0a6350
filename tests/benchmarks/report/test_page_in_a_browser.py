"""The report in a real browser: it opens without an error, fetches nothing, shows every figure, and fits the screen."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from spacecompile.benchmarks.report.page import render_report
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.runtime.answer import Answer

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FIGURES = (
    "distribution",
    "over-time",
    "paced",
    "throughput",
    "ratios",
    "pareto",
    "roofline",
    "where",
    "scaling",
)
SECTIONS = (
    "answers",
    "latency",
    "start",
    "paced",
    "throughput",
    "energy",
    "peers",
    "limits",
    "scaling",
    "budget",
    "cost",
    "rewrites",
    "score",
    "parity",
    "circumstances",
)
SCREENS = [(scheme, width_px) for scheme in ("light", "dark") for width_px in (1280, 400)]

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium here; add it with: apt-get install chromium")
    with sync_playwright() as playwright:
        # Tests may run as root, where Chromium refuses its sandbox; the page is our own.
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(limited_result: BenchResult, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with every section that there is."""
    rng = np.random.default_rng(0)
    frame_HWC = rng.integers(0, 60, (512, 512, 3), dtype=np.uint8)
    parts_HW = np.zeros((512, 512), np.uint8)
    parts_HW[160:300, 200:330] = 1
    answer = Answer(
        class_name="Cheops",
        class_index=0,
        class_probs=np.asarray([0.9, 0.1], np.float32),
        classes=("Cheops", "Soho"),
        box_xyxy=np.asarray([200, 160, 330, 300], np.float32),
        parts_HW=parts_HW,
        health={},
        flags=(),
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(limited_result, [(frame_HWC, answer)] * 2), encoding="utf-8")
    return path.as_uri()


def opened(browser: Browser, address: str, scheme: str, width_px: int) -> tuple[Page, list[str]]:
    """A page of a size, and everything that went wrong or was fetched while it opened."""
    page = browser.new_page(viewport={"width": width_px, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    noted: list[str] = []
    page.on("console", lambda message: noted.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: noted.append(f"error: {error}"))
    page.on("request", lambda request: noted.append(f"request: {request.url[:80]}"))
    page.on("requestfailed", lambda request: noted.append(f"failed: {request.url[:80]}"))
    page.goto(address)
    return page, noted


@pytest.mark.parametrize(("scheme", "width_px"), SCREENS, ids=[f"{scheme} {px} px" for scheme, px in SCREENS])
def test_the_page_opens_without_an_error_and_shows_everything(
    browser: Browser, address: str, scheme: str, width_px: int
) -> None:
    page, noted = opened(browser, address, scheme, width_px)
    remote = [note for note in noted if not note.startswith(("request: data:", f"request: {address[:60]}"))]
    assert remote == []
    for name in FIGURES:
        drawing = page.locator(f"#figure-{name} svg")
        box = drawing.bounding_box()
        assert box is not None, name
        assert box["width"] > 250, name
        assert box["height"] > 50, name
        assert drawing.locator("path").count() > 5, name
    for section in SECTIONS:
        assert page.locator(f"section#{section} h2").is_visible(), section
    broken = page.evaluate("[...document.images].filter(image => !image.complete || !image.naturalWidth).length")
    assert (page.locator("img").count(), broken) == (2, 0)
    # Wide tables scroll in a box of their own; the page does not.
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    page.screenshot(path=screenshot_path(scheme, width_px), full_page=True)
    page.close()


def test_the_colours_follow_the_reader_s_scheme_in_figures_too(browser: Browser, address: str) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        page, _ = opened(browser, address, scheme, 800)
        paper, ink = (
            page.evaluate(f"getComputedStyle(document.querySelector('{where}')).{what}")
            for where, what in (("html", "backgroundColor"), ("#figure-roofline svg text", "fill"))
        )
        shades[scheme] = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (paper, ink)]
        page.close()
    # Sums of red, green and blue: dark ink on light paper, and the other way.
    (light_paper, light_ink), (dark_paper, dark_ink) = shades["light"], shades["dark"]
    assert min(light_paper, dark_ink) > 600
    assert max(light_ink, dark_paper) < 200


def test_eleven_contestants_fit_their_figures(browser: Browser, crowded_result: BenchResult, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report(crowded_result), encoding="utf-8")
    page, _ = opened(browser, path.as_uri(), "light", 1280)
    for figure in ("distribution", "over-time", "paced", "ratios", "pareto", "roofline"):
        # Text beyond the edge of its drawing would be cut off.
        cut = page.evaluate(
            """selector => {
                const drawing = document.querySelector(selector), frame = drawing.getBoundingClientRect();
                return [...drawing.querySelectorAll("text")].filter(text => {
                    const box = text.getBoundingClientRect();
                    return box.left < frame.left - 1 || box.right > frame.right + 1
                        || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
                }).map(text => text.textContent);
            }""",
            f"#figure-{figure} svg",
        )
        assert cut == [], figure
    page.screenshot(path=screenshot_path("crowded", 1280), full_page=True)
    page.set_viewport_size({"width": 400, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


def test_a_script_that_came_in_with_a_name_does_not_run(
    browser: Browser, limited_result: BenchResult, tmp_path: Path
) -> None:
    from msgspec.structs import replace

    named = replace(limited_result.subject, bundle="<img src=x onerror=alert(1)>")
    path = tmp_path / "report.html"
    path.write_text(render_report(replace(limited_result, subject=named)), encoding="utf-8")
    page, noted = opened(browser, path.as_uri(), "light", 800)
    assert page.locator("h1").inner_text() == "<img src=x onerror=alert(1)>"
    assert noted == [f"request: {path.as_uri()[:80]}"]
    page.close()


def screenshot_path(scheme: str, width_px: int) -> Path:
    """Kept for people to look at, where the products of a clone are."""
    return ROOT / "runs" / "report" / f"{scheme}-{width_px}.png"
