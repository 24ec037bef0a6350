from __future__ import annotations

from importlib.resources import files

import msgspec
import pytest

from spacecompile.search.page import page_of, png_of
from spacecompile.search.results import SearchResult

KEPT = [path for path in files("spacecompile.benchmarks").joinpath("results").iterdir() if "architectures" in path.name]


@pytest.mark.parametrize("name", [path.name for path in KEPT if path.name.endswith(".json")])
def test_a_kept_search_can_still_be_read_and_drawn(name: str) -> None:
    content = files("spacecompile.benchmarks").joinpath("results", name).read_bytes()
    result = msgspec.json.decode(content, type=SearchResult)
    page = page_of(result)
    assert all(outcome.candidate.name in page for outcome in result.outcomes)
    assert png_of(result).startswith(b"\x89PNG")
