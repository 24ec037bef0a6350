"""Folding of batch norms into the convolution before them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spacecompile.export.rewrite.base import Pass
from spacecompile.export.rewrite.dataflow import Convolution, foldable_pairs
from spacecompile.network.model import MultiTaskNetwork


class FoldBatchNorm(Pass):
    """Scale each convolution's weights and shift its bias by the batch norm that alone reads it.

    With running mean m and variance v: norm(Wx + b) = sWx + s(b - m) + beta, where s = gamma / sqrt(v + eps).
    A batch norm elsewhere, such as one before its convolution, stays.
    """

    name = "fold_batchnorm"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether one can be folded."""
        return bool(foldable_pairs(network))

    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Fold all that can be."""
        path_of = {module: path for path, module in network.named_modules()}
        for convolution, norm in foldable_pairs(network):
            _fold(convolution, norm)
            network.set_submodule(path_of[norm], _what_remains(norm))
        return network


@torch.no_grad()
def _fold(convolution: Convolution, norm: nn.BatchNorm2d) -> None:
    scale, shift = _scale_and_shift(norm)
    weight, groups = convolution.weight, convolution.groups
    if isinstance(convolution, nn.ConvTranspose2d):
        # Its weights are [inputs, outputs / groups, h, w], with the groups along the inputs.
        grouped = weight.reshape(groups, -1, *weight.shape[1:]) * scale.reshape(groups, 1, -1, 1, 1)
        convolution.weight = nn.Parameter(grouped.flatten(0, 1))
    else:
        convolution.weight = nn.Parameter(weight * scale[:, None, None, None])
    convolution.bias = nn.Parameter(shift if convolution.bias is None else convolution.bias * scale + shift)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None  # foldable_pairs takes no other
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift + norm.bias if norm.affine else shift


def _what_remains(norm: nn.BatchNorm2d) -> nn.Module:
    """What timm puts inside its batch norms as children, dropout and the activation; plain ones have none."""
    children = [child for child in norm.children() if not isinstance(child, nn.Identity)]
    if not children:
        return nn.Identity()
    return children[0] if len(children) == 1 else nn.Sequential(*children)
