from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from msgspec.structs import replace

from spacecompile.benchmarks.cost.stages import STAGES, UPSAMPLING, costs_by_stage, stage_costs
from spacecompile.box_rule import BoxHead
from spacecompile.contract import Cost
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.network.count import cost_of
from spacecompile.network.model import MultiTaskNetwork
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
    assert list(costs) == [*STAGES[:-1], UPSAMPLING]
    assert total(list(costs.values())) == cost_of(loaded.network, size_px)
    for stage in STAGES[:-1]:
        assert costs[stage].params > 0
        assert costs[stage].macs_fvcore > 0
        assert costs[stage].macs_torch > 0
    assert (costs[UPSAMPLING].params, costs[UPSAMPLING].macs_torch) == (0, 0)


def test_before_and_after_are_those_of_the_manifest(tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    stages = stage_costs(tiny_checkpoint, manifest.spec)
    assert total([stage.before for stage in stages]) == manifest.cost_source
    assert total([stage.after for stage in stages]) == manifest.cost
    decoder = next(stage for stage in stages if stage.stage == "decoder")
    assert decoder.after.macs_fvcore < decoder.before.macs_fvcore


def test_a_box_head_is_a_stage_of_its_own(quick_checkpoint: Path) -> None:
    spec = replace(load_checkpoint(quick_checkpoint).spec, box_head=BoxHead(channels=8))
    network = MultiTaskNetwork(spec).eval()
    costs = costs_by_stage(network, spec.input_size_px)
    assert list(costs) == [*STAGES, UPSAMPLING]
    assert network.box_head is not None
    assert costs["box_head"].params == sum(weight.numel() for weight in network.box_head.parameters())
    assert costs["box_head"].macs_torch > 0
    assert (costs[UPSAMPLING].params, costs[UPSAMPLING].macs_torch) == (0, 0)


def test_stages_are_counted_at_the_size_of_the_bundle(quick_checkpoint: Path) -> None:
    spec = load_checkpoint(quick_checkpoint).spec
    small, large = (
        total([stage.before for stage in stage_costs(quick_checkpoint, replace(spec, input_size_px=size_px))])
        for size_px in ((64, 64), (128, 128))
    )
    assert large.macs_fvcore > 3 * small.macs_fvcore
    assert large.params == small.params
