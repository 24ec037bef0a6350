"""Removal of dropout and stochastic depth."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from timm.layers import DropPath
from torch import nn

from spacecompile.export.rewrite.dropout import RemoveDropout
from spacecompile.export.rewrite.proof import PassProofSettings
from spacecompile.network.model import MultiTaskNetwork

KINDS = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, DropPath)


def _count(network: nn.Module) -> int:
    return sum(isinstance(module, KINDS) for module in network.modules())


def test_every_dropout_of_the_reference_network_goes_and_the_proof_is_bit_exact(
    reference_network: MultiTaskNetwork,
) -> None:
    assert _count(reference_network) > 0
    network, report = RemoveDropout().run(reference_network, settings=PassProofSettings(input_size_px=(64, 128)))
    assert _count(network) == 0
    assert report.changed
    assert report.relative_error == 0.0
    assert report.after == report.before


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_found(make_network: Callable[..., MultiTaskNetwork], kind: type[nn.Module]) -> None:
    network = RemoveDropout().apply(make_network())
    assert not RemoveDropout().requires(network)
    network.segmentation_head = nn.Sequential(network.segmentation_head, kind(0.5))
    assert RemoveDropout().requires(network)
    assert not RemoveDropout().requires(RemoveDropout().apply(network))
