"""The collapsed SegFormer decoder against smp's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from torch import nn

from spacecompile.export.rewrite.base import in_float64
from spacecompile.export.rewrite.batchnorm import FoldBatchNorm
from spacecompile.export.rewrite.segformer_head import CollapsedSegformerDecoder, CollapseSegformerHead
from spacecompile.network.model import MultiTaskNetwork


def _folded(make_network: Callable[..., MultiTaskNetwork], **fields: object) -> MultiTaskNetwork:
    """A private float64 copy with its batch norm folded, as the pipeline would hand it over."""
    return FoldBatchNorm().apply(in_float64(make_network(**fields)))


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="reference"),
        pytest.param({"encoder_depth": 4}, id="fewer-stages"),
        pytest.param({"decoder_options": {"decoder_segmentation_channels": 48}}, id="narrow"),
        # The finest scale of these is larger than the decoder's own, so it is resized down.
        pytest.param({"encoder": "resnet18"}, id="stage-at-half-resolution"),
    ],
)
def test_the_collapsed_head_proves_itself_and_costs_less(
    make_network: Callable[..., MultiTaskNetwork], fields: dict[str, object]
) -> None:
    network, report = CollapseSegformerHead().run(_folded(make_network, **fields))
    assert isinstance(network.decoder, CollapsedSegformerDecoder)
    assert report.changed
    assert 0.0 < report.relative_error <= 1e-9
    assert report.after.params < report.before.params
    assert report.after.macs_fvcore < report.before.macs_fvcore
    assert report.after.macs_torch < report.before.macs_torch


def test_one_projection_per_scale_is_left_and_the_finest_carries_the_bias(
    make_network: Callable[..., MultiTaskNetwork],
) -> None:
    network = CollapseSegformerHead().apply(_folded(make_network))
    parameters = {key: tuple(value.shape) for key, value in network.decoder.named_parameters()}
    assert parameters == {
        "projections.0.weight": (128, 256, 1, 1),
        "projections.1.weight": (128, 160, 1, 1),
        "projections.2.weight": (128, 64, 1, 1),
        "projections.3.weight": (128, 32, 1, 1),
        "projections.3.bias": (128,),
    }


@pytest.mark.parametrize("size_px", [(64, 64), (96, 160)], ids=str)
def test_the_collapsed_decoder_takes_any_size(
    make_network: Callable[..., MultiTaskNetwork], size_px: tuple[int, int]
) -> None:
    before = _folded(make_network)
    after = CollapseSegformerHead().apply(in_float64(before))
    input_NCHW = torch.randn(1, 3, *size_px, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for expected, seen in zip(before(input_NCHW), after(input_NCHW), strict=True):
            torch.testing.assert_close(seen, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        pytest.param({}, "its batch norm is not folded", id="unfolded"),
        pytest.param({"architecture": "FPN", "decoder_options": {}}, "it has another decoder", id="other-decoder"),
    ],
)
def test_a_network_without_the_pattern_is_left_alone(
    make_network: Callable[..., MultiTaskNetwork], fields: dict[str, object], why: str
) -> None:
    source = make_network(**fields)
    network, report = CollapseSegformerHead().run(source)
    assert network is source, why
    assert not report.changed


@pytest.mark.parametrize(
    ("index", "replacement"),
    [
        pytest.param(0, nn.Conv2d(512, 128, 3, padding=1), id="fuse-of-another-size"),
        pytest.param(2, nn.GELU(), id="another-activation"),
    ],
)
def test_a_decoder_with_another_fuse_stage_is_left_alone(
    make_network: Callable[..., MultiTaskNetwork], index: int, replacement: nn.Module
) -> None:
    network = _folded(make_network)
    assert isinstance(network.decoder, SegformerDecoder)
    assert CollapseSegformerHead().requires(network)
    network.decoder.fuse_stage[index] = replacement
    assert not CollapseSegformerHead().requires(network)
