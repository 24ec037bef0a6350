"""Which variants are worth choosing: no other is both faster and more accurate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import UnsetType

from spacecompile.benchmarks.result_records import BenchResult


@dataclass(frozen=True, kw_only=True)
class TradeOff:
    """One variant on one engine.

    Attributes:
        name: Name of the variant.
        p50_ms: Median time from frame in memory to answer.
        s_acc: Accuracy score, without efficiency: the latency stands for that.
        on_front: Whether no other variant is at least as good in both numbers and better in one.
    """

    name: str
    p50_ms: float
    s_acc: float
    on_front: bool


def trade_offs(result: BenchResult) -> list[TradeOff]:
    """Every variant that has a median and a score, in the order of the scores."""
    if isinstance(result.score, UnsetType) or isinstance(result.latency, UnsetType):
        return []
    app = result.latency.get("app", {})
    places = {
        name: (median_ms, scores.s_acc)
        for name, scores in result.score.variants.items()
        if name in app and (median_ms := app[name].p50_ms) is not None
    }
    return [
        TradeOff(name=name, p50_ms=p50_ms, s_acc=s_acc, on_front=not _is_beaten(name, places))
        for name, (p50_ms, s_acc) in places.items()
    ]


def _is_beaten(name: str, places: Mapping[str, tuple[float, float]]) -> bool:
    p50_ms, s_acc = places[name]
    return any(
        other_ms <= p50_ms and other_acc >= s_acc and (other_ms, other_acc) != (p50_ms, s_acc)
        for other_ms, other_acc in places.values()
    )
