"""Folding of batch norms into convolutions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from spacecompile.export.rewrite.batchnorm import FoldBatchNorm, _fold, _what_remains
from spacecompile.network.model import MultiTaskNetwork


@pytest.mark.parametrize("groups", [1, 4], ids=["dense", "depthwise"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "not-affine"])
def test_a_folded_convolution_gives_what_both_gave(groups: int, bias: bool, affine: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    convolution = nn.Conv2d(4, 8, 3, padding=1, groups=groups, bias=bias).double()
    norm = nn.BatchNorm2d(8, eps=1e-3, affine=affine).double().eval()
    with torch.no_grad():
        for tensor in (*norm.parameters(), norm.running_mean):
            tensor.copy_(torch.randn(8, generator=generator, dtype=torch.float64))
        norm.running_var.copy_(torch.rand(8, generator=generator, dtype=torch.float64))
        input_NCHW = torch.randn(2, 4, 9, 7, generator=generator, dtype=torch.float64)
        expected_NCHW = norm(convolution(input_NCHW))
        _fold(convolution, norm)
        torch.testing.assert_close(convolution(input_NCHW), expected_NCHW, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "remains"),
    [
        pytest.param(nn.BatchNorm2d(4), nn.Identity, id="plain"),
        pytest.param(BatchNormAct2d(4, apply_act=False), nn.Identity, id="timm-without-activation"),
        pytest.param(BatchNormAct2d(4, act_layer=nn.SiLU), nn.SiLU, id="timm-with-activation"),
        pytest.param(BatchNormAct2d(4, drop_layer=nn.Dropout2d), nn.Sequential, id="timm-with-dropout"),
    ],
)
def test_the_activation_inside_a_norm_remains(norm: nn.BatchNorm2d, remains: type[nn.Module]) -> None:
    assert type(_what_remains(norm)) is remains


def test_the_reference_network_has_no_batch_norm_left(reference_network: MultiTaskNetwork) -> None:
    network, report = FoldBatchNorm().run(reference_network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert report.changed
    assert report.before.params - report.after.params == 128
    assert report.relative_error <= 1e-9
    again, second = FoldBatchNorm().run(network)
    assert again is network
    assert not second.changed


@pytest.mark.parametrize(
    ("architecture", "encoder", "params_saved", "norms_left"),
    [
        pytest.param("Unet", "resnet18", 5792, 0, id="unet-resnet18"),
        pytest.param("Unet", "mobileone_s0", None, None, id="unet-mobileone"),
        pytest.param("DeepLabV3Plus", "efficientnet-b0", 21824, 0, id="deeplab-efficientnet"),
        pytest.param("FPN", "tu-mobilenetv4_conv_small", None, 0, id="fpn-timm-mobilenetv4"),
    ],
)
def test_norms_of_other_networks_fold_wherever_a_convolution_alone_feeds_them(
    make_network: Callable[..., MultiTaskNetwork],
    architecture: str,
    encoder: str,
    params_saved: int | None,
    norms_left: int | None,
) -> None:
    network = make_network(architecture=architecture, encoder=encoder, decoder_options={})
    norms_before = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    folded, report = FoldBatchNorm().run(network)
    norms_after = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    print(report, norms_before, norms_after)
