"""Folding of batch norms into convolutions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from spacecompile.export.rewrite.base import in_float64
from spacecompile.export.rewrite.batchnorm import FoldBatchNorm, _fold, _what_remains
from spacecompile.export.rewrite.dataflow import Convolution
from spacecompile.export.rewrite.proof import PassProofSettings, relative_errors
from spacecompile.network.model import MultiTaskNetwork


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 4], ids=["dense", "grouped"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "not-affine"])
def test_a_folded_convolution_gives_what_both_gave(
    kind: type[Convolution], groups: int, bias: bool, affine: bool
) -> None:
    generator = torch.Generator().manual_seed(3)
    convolution = kind(4, 8, 3, padding=1, groups=groups, bias=bias).double()
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
    network, report = FoldBatchNorm().run(reference_network, settings=PassProofSettings(input_size_px=(64, 128)))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert report.changed
    assert report.before.params - report.after.params == 128
    assert 0.0 < report.relative_error <= 1e-9
    assert not FoldBatchNorm().requires(in_float64(network))


@pytest.mark.parametrize(
    ("architecture", "encoder", "left"),
    [
        pytest.param("DeepLabV3Plus", "resnet18", set(), id="deeplab-resnet18"),
        # smp registers the head of EfficientNet and never calls it.
        pytest.param("Unet", "efficientnet-b0", {"_bn1"}, id="unet-efficientnet"),
        pytest.param("FPN", "tu-mobilenetv4_conv_small", set(), id="fpn-timm-mobilenetv4"),
        # Its identity branches are batch norms without a convolution; reparameterisation is another pass's work.
        pytest.param("Linknet", "mobileone_s1", {"rbr_skip"}, id="linknet-mobileone"),
    ],
)
def test_every_norm_behind_a_convolution_folds_in_other_networks(
    make_network: Callable[..., MultiTaskNetwork], architecture: str, encoder: str, left: set[str]
) -> None:
    given = {"architecture": architecture, "encoder": encoder, "decoder_options": {}}
    before = in_float64(make_network(whole_encoder=True, **given))
    after = FoldBatchNorm().apply(in_float64(before))
    norms = [path for path, module in after.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert {path.rpartition(".")[2] for path in norms} == left
    assert sum(parameter.numel() for parameter in after.parameters()) < sum(
        parameter.numel() for parameter in before.parameters()
    )
    errors = relative_errors(before, after, PassProofSettings(input_size_px=(64, 128)))
    assert 0.0 < max(errors.values()) <= 1e-9
