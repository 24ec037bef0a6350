from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from spacecompile.benchmarks.stage_cost import STAGES, UPSAMPLING, costs_by_stage, stage_costs
from spacecompile.contract import Cost
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.network.count import cost_of
from spacecompile.runtime.bundle import open_bundle


def total(costs: list[Cost]) -> Cost:
    return Cost(
        params=sum(cost.params for cost in costs),
        macs_fvcore=sum(cost.macs_fvcore for cost in costs),
        macs_torch=sum(cost.macs_torch for cost in costs),
    )


@pytest.mark.parametrize("name", ["tiny_checkpoint", "quick_checkpoint"])
def test_the_stages_add_up_to_the_whole_and_none_is_missed(name: str, request: pytest.FixtureRequest) -> None:
    loaded = load_checkpoint(request.getfixturevalue(name))
    size_px = loaded.spec.input_size_px
    costs = costs_by_stage(loaded.network, size_px)
    assert list(costs) == [*STAGES, UPSAMPLING]
    assert total(list(costs.values())) == cost_of(loaded.network, size_px)
    for stage in STAGES:
        assert costs[stage].params > 0
        assert costs[stage].macs_fvcore > 0
        assert costs[stage].macs_torch > 0
    assert (costs[UPSAMPLING].params, costs[UPSAMPLING].macs_torch) == (0, 0)


def test_before_and_after_are_those_of_the_manifest(tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    stages = stage_costs(tiny_checkpoint)
    assert total([stage.before for stage in stages]) == manifest.cost_source
    assert total([stage.after for stage in stages]) == manifest.cost
    decoder = next(stage for stage in stages if stage.stage == "decoder")
    assert decoder.after.macs_fvcore < decoder.before.macs_fvcore
