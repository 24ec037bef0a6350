"""Removal of layers that no output depends on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from spacecompile.export.rewrite.base import in_float64
from spacecompile.export.rewrite.proof import PassProofSettings, proof_input
from spacecompile.export.rewrite.unused import RemoveUnused
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.unused import unused_layers


def unused_in(network: MultiTaskNetwork) -> list[str]:
    return unused_layers(network, proof_input(network, PassProofSettings(batch=1)))


@pytest.mark.parametrize(
    ("architecture", "encoder", "depth", "before", "after"),
    [
        pytest.param("PSPNet", "mit_b0", 3, 3.400, 0.500, id="pspnet-mit"),
        # Its last stages run although nothing reads them, and its blocks take two arguments.
        pytest.param("FPN", "efficientnet-b0", 4, 5.687, 2.114, id="stages-that-run"),
        # An activation that works in place stands behind its unused layers.
        pytest.param("FPN", "mobilenet_v2", 4, 3.893, 2.212, id="in-place"),
        pytest.param("Unet", "efficientnet-b0", 5, 6.255, 5.843, id="head-of-efficientnet"),
        pytest.param("PSPNet", "efficientnet-b0", 3, 4.061, 0.119, id="pspnet-efficientnet"),
        pytest.param("PSPNet", "mobileone_s1", 3, 3.790, 0.572, id="pspnet-mobileone"),
        pytest.param("PSPNet", "tu-mobilenetv4_conv_small", 3, 1.342, 0.126, id="pspnet-mobilenetv4"),
        pytest.param("FPN", "mobileone_s1", 4, 5.396, 4.731, id="mobileone-at-depth-4"),
        pytest.param("FPN", "tu-mobilenetv4_conv_small", 4, 2.945, 2.001, id="mobilenetv4-at-depth-4"),
        pytest.param("Segformer", "mit_b0", 3, 3.477, 0.577, id="segformer-mit-at-depth-3"),
    ],
)
def test_what_no_output_reads_is_gone(
    make_network: Callable[..., MultiTaskNetwork],
    architecture: str,
    encoder: str,
    depth: int,
    before: float,
    after: float,
) -> None:
    # As smp writes its own files; a network of ours is cut when it is built.
    given = {"architecture": architecture, "encoder": encoder, "encoder_depth": depth, "decoder_options": {}}
    source = make_network(whole_encoder=True, **given)
    network, report = RemoveUnused().run(source)
    assert report.changed
    assert report.relative_error == 0.0
    assert report.before.params / 1e6 == pytest.approx(before, abs=1e-3)
    assert report.after.params / 1e6 == pytest.approx(after, abs=1e-3)
    assert not RemoveUnused().requires(in_float64(network))


@pytest.mark.parametrize("architecture", ["Segformer", "PSPNet"])
@pytest.mark.parametrize("encoder", ["tu-hgnetv2_b0", "tu-efficientvit_b1", "tu-fastvit_t8", "tu-repvit_m0_9"])
def test_encoders_that_are_built_only_as_deep_as_asked_have_nothing_unused(
    make_network: Callable[..., MultiTaskNetwork], architecture: str, encoder: str
) -> None:
    network = make_network(architecture=architecture, encoder=encoder, encoder_depth=3, decoder_options={})
    assert unused_in(in_float64(network)) == []


def test_the_reference_network_uses_everything(reference_network: MultiTaskNetwork) -> None:
    assert unused_in(in_float64(reference_network)) == []


def test_a_layer_that_reaches_one_output_alone_stays(make_network: Callable[..., MultiTaskNetwork]) -> None:
    class Tapped(nn.Module):
        """A decoder with one layer too many."""

        def __init__(self, decoder: nn.Module) -> None:
            super().__init__()
            self.decoder, self.spare = decoder, nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True))

        def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
            self.spare(features[0])
            answer: torch.Tensor = self.decoder(features)
            return answer

    network = make_network()
    network.decoder = Tapped(network.decoder)
    wanted = in_float64(network)
    assert unused_in(wanted) == ["decoder.spare.0", "decoder.spare.1"]
    names_before = set(wanted.state_dict())
    names_after = set(RemoveUnused().apply(wanted).state_dict())
    assert names_before - names_after == {"decoder.spare.0.weight", "decoder.spare.0.bias"}
