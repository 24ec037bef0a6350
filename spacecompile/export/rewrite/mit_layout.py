"""smp's Mix Transformer encoder with the blocks of `mit` in the place of its own."""

from __future__ import annotations

from typing import Any

from segmentation_models_pytorch.encoders import mix_transformer as smp_mit
from torch import nn

from spacecompile.export.rewrite.base import Pass
from spacecompile.export.rewrite.mit import Block, ChannelNorm, FeedForward, MultiHeadAttention, Reduction
from spacecompile.network.model import MultiTaskNetwork


class LayOutMit(Pass):
    """Arrange the encoder's operators so that runtimes move less memory; multiply-adds stay the same."""

    name = "lay_out_mit"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether there is a block of smp's."""
        return any(isinstance(module, smp_mit.Block) for module in network.modules())

    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Replace every block, and every layer norm over an image."""
        # Listed before the first replacement, which changes the tree.
        modules = list(network.named_modules())
        for path, module in modules:
            if isinstance(module, smp_mit.MixVisionTransformer):
                _lay_out_norms(module)
            elif isinstance(module, smp_mit.Block):
                network.set_submodule(path, _block(module))
        return network


def _lay_out_norms(encoder: Any) -> None:
    for stage in ("1", "2", "3", "4"):
        for path in (f"patch_embed{stage}.norm", f"norm{stage}"):
            norm = dict(encoder.named_modules()).get(path)
            if isinstance(norm, nn.LayerNorm):  # of a stage that no output uses nothing is left
                encoder.set_submodule(path, ChannelNorm(norm))


def _block(block: Any) -> Block:
    """Take over the layers of one of smp's blocks, which carries no types."""
    attention, mlp = block.attn, block.mlp
    reduction = Reduction(attention.sr, attention.norm) if attention.sr_ratio > 1 else None
    return Block(
        attention_norm=block.norm1,
        attention=MultiHeadAttention(
            query=attention.q,
            key_value=attention.kv,
            output=attention.proj,
            reduction=reduction,
            num_heads=attention.num_heads,
            scale=attention.scale,
        ),
        feed_forward_norm=block.norm2,
        feed_forward=FeedForward(
            expand=_pointwise(mlp.fc1),
            depthwise=mlp.dwconv.dwconv,
            activation=mlp.act,
            contract=_pointwise(mlp.fc2),
        ),
    )


def _pointwise(linear: nn.Linear) -> nn.Conv2d:
    """A linear layer as a 1x1 convolution."""
    weight = linear.weight.detach()
    convolution = nn.Conv2d(linear.in_features, linear.out_features, 1, device=weight.device, dtype=weight.dtype)
    convolution.weight = nn.Parameter(weight[:, :, None, None])
    convolution.bias = nn.Parameter(linear.bias.detach())
    return convolution
