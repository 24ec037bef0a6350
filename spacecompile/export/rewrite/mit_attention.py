"""Attention with fewer operators on the long side: the scale, and single-head query and output projections.

Layout legend: C channels. A vector is a column; 1 is the vector of ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spacecompile.export.rewrite.base import Pass
from spacecompile.export.rewrite.mit import Block, MultiHeadAttention, Reduction, SingleHeadAttention
from spacecompile.network.model import MultiTaskNetwork


class FoldAttentionScale(Pass):
    """Scale the queries' weights instead of every score."""

    name = "fold_attention_scale"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether any attention still scales its scores."""
        return bool(_scaled(network))

    @torch.no_grad()
    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Fold each scale."""
        for attention in _scaled(network):
            for parameter in attention.query.parameters():
                parameter.mul_(attention.scale)
            attention.scale = 1.0
        return network


def _scaled(network: nn.Module) -> list[MultiHeadAttention]:
    return [module for module in network.modules() if isinstance(module, MultiHeadAttention) and module.scale != 1.0]


class FoldSingleHead(Pass):
    """Move a single head's query and output projections to its keys and values, of which there are far fewer.

    Output: softmax rows sum to one, so P(S V + b) = S (P V + b): P and b go into the values.

    Query: with x the layer norm's output before its scale g and shift t, a score is (Q(g x + t) + q) k s. The query
    matrix moves to the key, k' = A k with A = s g Q^T, which leaves a number per key, c k with c = s (Q t + q), to be
    added to every token's score. Layer norm gives x 1 = 0, so a shift of 1 in the place of t makes one direction
    constant, (x + 1) 1 = C, and carries that number for free: k' = (A + 1 (c - A^T 1)^T / C) k.
    """

    name = "fold_single_head"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether there is such a head with fewer keys than tokens."""
        return any(_is_foldable(module) for module in network.modules())

    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Fold each."""
        for module in network.modules():
            if isinstance(module, Block) and _is_foldable(module):
                _fold(module)
        return network


def _is_foldable(module: nn.Module) -> bool:
    if not isinstance(module, Block) or not isinstance(module.attention, MultiHeadAttention):
        return False
    attention = module.attention
    return attention.num_heads == 1 and attention.reduction is not None and _is_tiling(attention.reduction)


def _is_tiling(reduction: Reduction) -> bool:
    """Whether the convolution pads nothing, since a shift of its input would be missing in the padding."""
    return reduction.convolution.padding in ((0, 0), "valid") and reduction.convolution.groups == 1


@torch.no_grad()
def _fold(block: Block) -> None:
    attention = block.attention
    assert isinstance(attention, MultiHeadAttention) and attention.reduction is not None  # _is_foldable
    norm, reduction, scale = block.attention_norm, attention.reduction, attention.scale
    # Copies, since the norm is overwritten below.
    gain, shift = norm.weight.clone(), norm.bias.clone()
    channels = gain.numel()
    query, output = attention.query, attention.output
    (key_weight, value_weight), (key_bias, value_bias) = (
        attention.key_value.weight.chunk(2),
        attention.key_value.bias.chunk(2),
    )
    on_key = scale * gain[:, None] * query.weight.T
    constant = scale * (query.weight @ shift + query.bias)
    on_key = on_key + (constant - on_key.sum(dim=0)) / channels
    key = _linear(on_key @ key_weight, on_key @ key_bias)
    value = _linear(output.weight @ value_weight, output.weight @ value_bias + output.bias)
    _expect_unit_norm(reduction.convolution, gain, shift)
    # From here on the norm gives x + 1, whose sum over the channels is constant: see the class docstring.
    norm.weight.fill_(1.0)
    norm.bias.fill_(1.0)
    block.attention = SingleHeadAttention(key=key, value=value, reduction=reduction)


def _expect_unit_norm(convolution: nn.Conv2d, gain: Tensor, shift: Tensor) -> None:
    """Make a convolution that read g x + t read x + 1."""
    weight = convolution.weight
    missing = (weight * (shift - gain)[None, :, None, None]).sum(dim=(1, 2, 3))
    convolution.bias = nn.Parameter(missing if convolution.bias is None else convolution.bias + missing)
    convolution.weight = nn.Parameter(weight * gain[None, :, None, None])


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, device=weight.device, dtype=weight.dtype)
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear
