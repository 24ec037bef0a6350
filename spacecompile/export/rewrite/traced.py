"""A decoder as a graph of its calls, which a pass can rearrange.

smp's decoders resize inside their forward functions, so there is no module to move. torch.fx runs the forward once
with stand-ins for tensors and writes down the calls; the graph then is the decoder.

Layout legend: N batch, C channels, H W rows and columns.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import PH

from spacecompile.network.model import MultiTaskNetwork

_SHAPE = "shape"


class TracedDecoder(nn.Module):
    """A graph of calls in the place of a decoder."""

    def __init__(self, calls: fx.GraphModule) -> None:
        super().__init__()
        self.calls = calls

    def forward(self, features: list[Tensor]) -> Tensor:
        """Decode an encoder's features."""
        decoded_NCHW: Tensor = self.calls(*features)
        return decoded_NCHW


class DecoderAndHead(nn.Module):
    """The decoder and its segmentation head as one, for what only both together can do."""

    def __init__(self, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.head = head

    def forward(self, features: list[Tensor]) -> Tensor:
        """Part logits of an encoder's features."""
        part_logits_NKhw: Tensor = self.head(self.decoder(features))
        return part_logits_NKhw


@torch.no_grad()
def traced(network: MultiTaskNetwork, decoder: nn.Module) -> fx.GraphModule | None:
    """The calls of a decoder, each node with its shape at the network's input size in `node.meta`.

    Args:
        network: Network whose encoder makes the features.
        decoder: Decoder that takes a list of features; the graph shares its modules.

    Returns:
        The graph; None where the forward branches on values of tensors or loops over unknown many, which no graph can
        hold.
    """
    features = _features_on_meta(network)
    tracer = fx.Tracer()
    try:
        graph = tracer.trace(decoder, concrete_args={"features": [PH] * len(features)})
    except (fx.proxy.TraceError, TypeError):  # the latter from Python's own functions on a stand-in, such as int()
        return None
    # One argument per feature and one result, instead of lists and the description of their structure.
    graph.set_codegen(fx.graph.CodeGen())
    output = graph.output_node()
    output.args = (output.all_input_nodes[0],)
    without_values = fx.GraphModule(copy.deepcopy(decoder).to("meta"), graph)
    without_values.graph.eliminate_dead_code()
    _Shapes(without_values).run(*features)
    # Nodes look their modules up in the last module that was made of them.
    return fx.GraphModule(decoder, without_values.graph)


def _features_on_meta(network: MultiTaskNetwork) -> list[Tensor]:
    """The encoder's features without values: only shapes are computed."""
    encoder = copy.deepcopy(network.encoder).to("meta")
    dtype = next(network.parameters()).dtype
    features: list[Tensor] = encoder(torch.zeros(1, 3, *network.spec.input_size_px, device="meta", dtype=dtype))
    return features


class _Shapes(fx.Interpreter):
    """Notes the shape of every tensor at its node. torch's own pass for it prints when a node fails."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta[_SHAPE] = tuple(result.shape)
        return result


def shape_of(node: fx.Node) -> tuple[int, ...] | None:
    """Shape of the tensor that a node gives; None where it gives something else."""
    shape: tuple[int, ...] | None = node.meta.get(_SHAPE)
    return shape
