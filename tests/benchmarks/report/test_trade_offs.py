from __future__ import annotations

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from spacecompile.benchmarks.latency.summary import summarise
from spacecompile.benchmarks.report.trade_offs import trade_offs
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.benchmarks.score.records import ScoreReport
from spacecompile.metrics import Scores


def scores(s_acc: float) -> Scores:
    return Scores(s_cls=s_acc, s_det=s_acc, s_seg=s_acc, s_acc=s_acc, s_flops=1, s_params=1, s_final=1, frames=4)


@pytest.mark.parametrize(
    ("places", "front"),
    [
        ({"a": (10, 0.9), "b": (20, 0.95)}, {"a", "b"}),
        ({"a": (10, 0.9), "b": (20, 0.8)}, {"a"}),
        ({"a": (10, 0.9), "b": (10, 0.9)}, {"a", "b"}),
        ({"a": (10, 0.9), "b": (10, 0.8), "c": (30, 0.9)}, {"a"}),
    ],
    ids=["each has its price", "slower and worse", "equals", "worse in one"],
)
def test_what_another_beats_is_not_on_the_front(
    places: dict[str, tuple[float, float]], front: set[str], whole_result: BenchResult
) -> None:
    result = replace(
        whole_result,
        latency={"app": {name: summarise([ms] * 12) for name, (ms, _) in places.items()}},
        score=ScoreReport(data="d", split="val", variants={name: scores(acc) for name, (_, acc) in places.items()}),
    )
    assert {offer.name for offer in trade_offs(result) if offer.on_front} == front


def test_without_a_median_or_a_score_nothing_is_offered(whole_result: BenchResult) -> None:
    assert [offer.name for offer in trade_offs(whole_result)] == ["fp32"]
    assert trade_offs(replace(whole_result, score=UNSET)) == []
    assert trade_offs(replace(whole_result, latency={"app": {"fp32": summarise([1.0] * 3)}})) == []
