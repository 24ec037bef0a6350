"""The encoder with laid-out blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from segmentation_models_pytorch.encoders import mix_transformer as smp_mit

from spacecompile.export.rewrite.base import in_float64
from spacecompile.export.rewrite.mit import Block
from spacecompile.export.rewrite.mit_layout import LayOutMit
from spacecompile.export.rewrite.proof import PassProofSettings, relative_errors
from spacecompile.network.model import MultiTaskNetwork


def test_the_reference_network_keeps_its_answers_and_its_cost(reference_network: MultiTaskNetwork) -> None:
    network, report = LayOutMit().run(reference_network)
    assert report.changed
    assert report.relative_error <= 1e-9
    assert report.after == report.before
    assert sum(isinstance(module, Block) for module in network.modules()) == 8
    assert not any(isinstance(module, smp_mit.Block) for module in network.modules())
    assert not LayOutMit().requires(network)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"architecture": "FPN", "decoder_options": {}}, id="another-decoder"),
        pytest.param({"encoder_depth": 4}, id="fewer-stages"),
    ],
)
def test_other_networks_with_this_encoder_keep_their_answers(
    make_network: Callable[..., MultiTaskNetwork], fields: dict[str, object]
) -> None:
    before = in_float64(make_network(**fields))
    assert LayOutMit().requires(before)
    after = LayOutMit().apply(in_float64(before))
    assert max(relative_errors(before, after, PassProofSettings(input_size_px=(64, 128))).values()) <= 1e-9


def test_a_network_with_another_encoder_is_left_alone(make_network: Callable[..., MultiTaskNetwork]) -> None:
    assert not LayOutMit().requires(make_network(encoder="resnet18"))
