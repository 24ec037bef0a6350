from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from spacecompile.search.counting import costs_of, count_all
from spacecompile.search.results import Costs

CHARGED_PX = (64, 64)


def test_costs_are_those_before_and_after_the_exact_rewrites(tiny: Any) -> None:
    spec = tiny("a", architecture="Segformer", decoder_options={"decoder_segmentation_channels": 16}).model_spec()
    costs = costs_of(spec, CHARGED_PX)
    assert costs.rewritten.params < costs.source.params
    assert costs.rewritten.macs_fvcore < costs.source.macs_fvcore
    assert costs.skipped == ()


def test_macs_are_counted_at_the_charged_size_and_parameters_at_any(tiny: Any) -> None:
    spec = tiny("a").model_spec()
    small, large = costs_of(spec, (64, 64)), costs_of(spec, (128, 128))
    assert small.rewritten.params == large.rewritten.params
    assert (small.size_px, large.size_px) == ((64, 64), (128, 128))
    assert large.rewritten.macs_fvcore == pytest.approx(4 * small.rewritten.macs_fvcore, rel=0.01)


def test_a_network_that_smp_refuses_has_its_reason_and_the_others_their_costs(tiny: Any, tmp_path: Path) -> None:
    candidates = [
        tiny("fine"),
        tiny("refused", architecture="Linknet", encoder="mit_b0", encoder_depth=5, decoder_options={}),
        tiny("too small", architecture="PAN", encoder="efficientnet-b0", encoder_depth=5, decoder_options={}),
    ]
    told: list[tuple[str, int, int]] = []
    found = count_all(
        candidates, charged_size_px=None, cache=tmp_path / "costs.json", progress=lambda *step: told.append(step)
    )
    assert isinstance(found["fine"], Costs)
    assert "not supported for Linknet" in str(found["refused"])
    assert "does not run on an input of 64x64" in str(found["too small"])
    assert told == [("count", done, 3) for done in range(4)]


def test_what_was_counted_is_read_back_and_a_damaged_cache_is_counted_anew(tiny: Any, tmp_path: Path) -> None:
    cache = tmp_path / "costs.json"
    first = count_all([tiny("a")], charged_size_px=CHARGED_PX, cache=cache)
    (key,) = msgspec.json.decode(cache.read_bytes())
    marked = msgspec.json.decode(cache.read_bytes().replace(b'"skipped":[]', b'"skipped":["read"]'))
    cache.write_bytes(msgspec.json.encode(marked))
    (costs,) = count_all([tiny("a")], charged_size_px=CHARGED_PX, cache=cache).values()
    assert isinstance(costs, Costs)
    assert costs.skipped == ("read",)
    cache.write_text("{")
    assert count_all([tiny("a")], charged_size_px=CHARGED_PX, cache=cache) == first
    assert list(msgspec.json.decode(cache.read_bytes())) == [key]


@pytest.mark.parametrize(
    ("charged_px", "stands_for_px", "expected_px"),
    [
        pytest.param(None, (64, 64), (96, 96), id="own input"),
        pytest.param((512, 512), None, (512, 512), id="all alike"),
        pytest.param((512, 512), (96, 96), (512, 512), id="what it stands for"),
        pytest.param((512, 512), (64, 64), (768, 768), id="larger"),
        pytest.param((96, 128), (64, 96), (160, 128), id="whole multiples"),
    ],
)
def test_a_charged_size_grows_with_the_input(
    charged_px: tuple[int, int] | None,
    stands_for_px: tuple[int, int] | None,
    expected_px: tuple[int, int],
    tiny: Any,
    tmp_path: Path,
) -> None:
    candidate = tiny("a", input_size_px=[96, 96])
    cache = tmp_path / "costs.json"
    count_all([candidate], charged_size_px=charged_px, charged_for_px=stands_for_px, cache=cache)
    (key,) = msgspec.json.decode(cache.read_bytes())
    assert msgspec.json.decode(key)[1] == list(expected_px)
