from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx")

from spacecompile.benchmarks.cost.graphs import graph_costs
from spacecompile.runtime.bundle import open_bundle


def test_a_bundle_is_counted_without_its_checkpoint(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    costs = graph_costs(bundle, bundle.manifest.variants)
    plain, augmented = costs["fp32"], costs["fp32-d4"]
    assert (plain.views, augmented.views) == (1, 8)
    assert plain.uncounted == 0
    assert sum(plain.macs_by_op.values()) == sum(plain.macs_by_type.values()) == plain.macs
    assert plain.file_bytes == bundle.manifest.files["variants/fp32/model.onnx"].bytes
    assert set(plain.macs_by_type) == {"fp32"}


def test_the_graph_holds_the_network_s_work_once_per_view_and_what_is_around_it(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    costs = graph_costs(bundle, bundle.manifest.variants)
    network_macs = bundle.manifest.cost.macs_torch
    around = costs["fp32"].macs - network_macs
    # Pooling and normalising the frame, and upsampling to it, are convolutions and matrix products too.
    assert 0 < around < 0.6 * network_macs
    assert costs["fp32-d4"].macs == pytest.approx(8 * network_macs + around, rel=0.01)


def test_the_weights_are_the_network_s_parameters_and_little_else(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    (cost,) = graph_costs(bundle, [bundle.variant("fp32")]).values()
    assert cost.params == pytest.approx(bundle.manifest.cost.params, rel=0.02)
    assert cost.weight_bytes == 4 * cost.params
