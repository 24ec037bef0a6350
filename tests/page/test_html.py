"""What every page shares: a base with both colour schemes, escaped text, drawn figures, no address."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError
from page_outline import outline_of

from spacecompile.page.html import page_from

TEMPLATE = """{% extends "base.html.j2" %}
{% from "macros.html.j2" import figure %}
{% block title %}{{ name }}{% endblock %}
{% block main %}<h1>{{ name }}</h1>{{ figure("it", figures.it, "What it is") }}{% endblock %}
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "own.html.j2"
    path.write_text(TEMPLATE)
    return path


def test_text_is_escaped_and_figures_are_drawn(template: Path) -> None:
    page = page_from(template, figures={"it": "<svg></svg>"}, name="<script>")
    outline = outline_of(page)
    assert outline.scripts == 0
    assert outline.text.count("<script>") == 2
    assert outline.ids == ["figure-it"]
    assert "<svg></svg>" in page


def test_the_style_sheet_is_in_the_page_and_knows_both_schemes(template: Path) -> None:
    page = page_from(template, figures={"it": ""}, name="it")
    assert "prefers-color-scheme: dark" in page
    assert "http" not in page
    assert "figure-it" not in page


def test_a_value_that_is_missing_is_our_own_error(template: Path) -> None:
    with pytest.raises(UndefinedError):
        page_from(template, figures={"it": ""})
