"""Training-time branches merged into one convolution."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from spacecompile.export.rewrite.base import in_float64
from spacecompile.export.rewrite.reparameterise import Reparameterise
from spacecompile.network.model import MultiTaskNetwork


@pytest.mark.parametrize(
    "encoder",
    ["mobileone_s1", "tu-mobileone_s1", "tu-fastvit_t8", "tu-repvit_m0_9", "tu-repvgg_a0", "tu-repghostnet_050"],
)
def test_branches_merge_exactly(make_network: Callable[..., MultiTaskNetwork], encoder: str) -> None:
    source = make_network(architecture="FPN", encoder=encoder, decoder_options={})
    network, report = Reparameterise().run(source)
    assert report.changed
    assert 0.0 < report.relative_error <= 1e-9
    assert report.after.params < report.before.params
    assert report.after.macs_fvcore < report.before.macs_fvcore
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert torch.get_default_dtype() is torch.float32
    assert not Reparameterise().requires(in_float64(network))


def test_a_network_without_such_blocks_is_left_alone(reference_network: MultiTaskNetwork) -> None:
    network, report = Reparameterise().run(reference_network)
    assert network is reference_network
    assert not report.changed


def test_a_child_that_is_called_fuse_is_not_a_method(make_network: Callable[..., MultiTaskNetwork]) -> None:
    class Decoder(nn.Module):
        """Some decoders name a convolution so."""

        def __init__(self, decoder: nn.Module) -> None:
            super().__init__()
            self.decoder, self.fuse = decoder, nn.Identity()

        def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
            answer: torch.Tensor = self.fuse(self.decoder(features))
            return answer

    network = make_network()
    network.decoder = Decoder(network.decoder)
    assert not Reparameterise().requires(in_float64(network))
