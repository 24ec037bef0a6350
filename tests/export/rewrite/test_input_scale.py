"""The scale of normalisation in the first convolution, and the graph around it that knows."""

from __future__ import annotations

import copy
from collections.abc import Callable

import onnx
import pytest
import torch
from torch import Tensor, nn

from spacecompile.export.rewrite.base import in_float64
from spacecompile.export.rewrite.input_scale import FoldInputScale
from spacecompile.export.rewrite.proof import PassProofSettings, relative_errors
from spacecompile.export.sealed.frame_to_input import UNIT_STD, FrameToInput
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.export.sealed.to_onnx import export_onnx
from spacecompile.network.model import MultiTaskNetwork

NOT_WHOLE = {"frame_size_px": (96, 96)}
OTHER = {"architecture": "FPN", "decoder_options": {}}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="reference"),
        pytest.param(OTHER | {"encoder": "resnet18"}, id="resnet"),
        # Its first convolution pads in an operator of its own.
        pytest.param(OTHER | {"encoder": "efficientnet-b0"}, id="padding-apart"),
        pytest.param(OTHER | {"encoder": "tu-mobilenetv4_conv_small"}, id="timm"),
        pytest.param(OTHER | {"encoder": "tu-tf_efficientnetv2_b0"}, id="timm-same-padding"),
    ],
)
def test_the_network_scales_and_its_spec_says_so(
    make_network: Callable[..., MultiTaskNetwork], fields: dict[str, object]
) -> None:
    source = make_network(**fields | NOT_WHOLE)
    network, report = FoldInputScale().run(source)
    assert network.spec.std == UNIT_STD
    assert network.spec.mean == source.spec.mean
    assert report.changed
    assert 0.0 < report.relative_error <= 1e-9
    assert report.after == report.before
    assert not FoldInputScale().requires(in_float64(network))


def test_the_proof_shows_both_networks_the_same_picture(make_network: Callable[..., MultiTaskNetwork]) -> None:
    before = in_float64(make_network(**NOT_WHOLE))
    after = FoldInputScale().apply(copy.deepcopy(before))
    after.spec = before.spec
    assert min(relative_errors(before, after, PassProofSettings()).values()) > 1e-3


def test_where_pooling_scales_for_free_the_network_is_left_alone(reference_network: MultiTaskNetwork) -> None:
    assert reference_network.spec.frame_size_px == (1024, 1024)
    assert not FoldInputScale().requires(reference_network)


class _Before(nn.Module):
    """Something else reads the input too, or stands before the convolution."""

    def __init__(self, encoder: nn.Module, *, beside: bool) -> None:
        super().__init__()
        self.encoder, self.beside = encoder, beside

    def forward(self, input_NCHW: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.encoder(input_NCHW if self.beside else input_NCHW.abs())
        return [*features[:-1], features[-1] + input_NCHW.mean()] if self.beside else features


@pytest.mark.parametrize("beside", [True, False], ids=["read-twice", "activation-before"])
def test_an_input_that_not_one_convolution_alone_reads_is_left_alone(
    make_network: Callable[..., MultiTaskNetwork], beside: bool
) -> None:
    network = in_float64(make_network(**NOT_WHOLE))
    assert FoldInputScale().requires(network)
    network.encoder = _Before(network.encoder, beside=beside)
    assert not FoldInputScale().requires(network)


def test_the_sealed_graph_gives_the_same_answer_with_one_multiplication_less(
    make_network: Callable[..., MultiTaskNetwork],
) -> None:
    source = make_network(**NOT_WHOLE)
    network, _ = FoldInputScale().run(source)
    frame_HWC = torch.randint(0, 256, (96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    graphs = [SealedGraph(net, net.spec) for net in (source, network)]
    with torch.no_grad():
        expected, seen = (graph(frame_HWC) for graph in graphs)
    torch.testing.assert_close(seen[0], expected[0], rtol=0, atol=1e-5)
    assert (seen[1] != expected[1]).float().mean() < 1e-3
    before, after = (_count(graph, "Mul") for graph in graphs)
    # Besides, the frame's mean and largest value need no scale then.
    assert after <= before - 1


def _count(graph: SealedGraph, op_type: str) -> int:
    model = onnx.load_from_string(export_onnx(graph, (96, 96), facts={}))
    return [node.op_type for node in model.graph.node].count(op_type)


def test_a_frame_minus_its_mean_is_what_such_a_network_gets(make_network: Callable[..., MultiTaskNetwork]) -> None:
    network, _ = FoldInputScale().run(make_network(**NOT_WHOLE))
    white_HWC = torch.full((96, 96, 3), 255.0)
    input_NCHW = FrameToInput(network.spec)(white_HWC)
    expected_C = torch.tensor([255 * (1 - mean) for mean in network.spec.mean])
    torch.testing.assert_close(input_NCHW, expected_C[None, :, None, None].expand(1, 3, 64, 64))
