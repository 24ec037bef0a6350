"""Records that earlier versions wrote are still read, and what makes no sense is refused in one sentence."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from spacecompile.box_rule import BoxHead, BoxRule
from spacecompile.contract import ModelSpec
from spacecompile.errors import UsageError


def test_a_spec_from_before_soft_edges_and_box_heads_is_read() -> None:
    spec = ModelSpec(box=BoxRule(threshold=0.3, margins_px=(1.0, 2.0, 3.0, 4.0)))
    written = msgspec.to_builtins(spec)
    del written["box_d4"], written["box_head"]
    written["box"] = {"threshold": 0.3, "margins_px": [1.0, 2.0, 3.0, 4.0]}
    assert msgspec.convert(written, ModelSpec) == spec


def test_a_graph_with_views_takes_its_own_rule_where_there_is_one() -> None:
    box, box_d4 = BoxRule(threshold=0.3), BoxRule(views="median")
    assert ModelSpec(box=box).box_of("d4") == box
    assert [ModelSpec(box=box, box_d4=box_d4).box_of(tta) for tta in ("none", "d4", "d4-median")] == [
        box,
        box_d4,
        box_d4,
    ]


def test_a_rule_follows_the_size_of_the_frame() -> None:
    rule = BoxRule(margins_px=(1.0, 2.0, 3.0, 4.0), margin_shares=(0.1,) * 4, support_px=4, softness=0.0)
    assert rule.scaled((2.0, 0.5)) == BoxRule(
        margins_px=(2.0, 1.0, 6.0, 2.0), margin_shares=(0.1,) * 4, support_px=2, softness=0.0
    )
    assert BoxRule().scaled((0.1, 0.1)).support_px == 1


@pytest.mark.parametrize(
    ("record", "fields", "seen"),
    [
        pytest.param(BoxRule, {"threshold": 1.0}, "between 0 and 1", id="threshold"),
        pytest.param(BoxRule, {"support_px": 0}, "support be 1 or more", id="no support"),
        pytest.param(BoxRule, {"softness": -1.0}, "softness finite", id="softness below zero"),
        pytest.param(BoxRule, {"softness": 0.1, "support_px": 2}, "soft edges know no support", id="both"),
        pytest.param(BoxRule, {"margins_px": (float("nan"), 0.0, 0.0, 0.0)}, "must be finite", id="margin"),
        pytest.param(BoxRule, {"margin_shares": (0.0, float("inf"), 0.0, 0.0)}, "must be finite", id="share"),
        pytest.param(BoxHead, {"channels": 0}, "at least 1 channel", id="head without channels"),
        pytest.param(BoxHead, {"bound": 1.5}, "bound above 0", id="head without bound"),
        pytest.param(ModelSpec, {"box": BoxRule(residual=True)}, "box head", id="residual without a head"),
        pytest.param(ModelSpec, {"box_d4": BoxRule(residual=True)}, "box head", id="likewise with views"),
    ],
)
def test_what_makes_no_sense_is_refused(record: type, fields: dict[str, Any], seen: str) -> None:
    with pytest.raises(UsageError, match=seen):
        record(**fields)
