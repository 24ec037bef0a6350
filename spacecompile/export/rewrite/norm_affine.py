"""Folding of a layer norm's gain and shift into the layers behind it.

Layout legend: C channels, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spacecompile.export.rewrite.base import Pass
from spacecompile.export.rewrite.channels import Layer, flow_of, layers_that_alone_read
from spacecompile.network.model import MultiTaskNetwork


@dataclass(frozen=True, eq=False)
class _Foldable:
    """A layer norm with the layers that alone read it."""

    norm: nn.LayerNorm
    layers: list[Layer]


class FoldNormAffine(Pass):
    """Let each layer norm give plain normalised values where only linear layers read it.

    W (g x + t) + b = (W g) x + (W t + b). It holds for linear layers and for convolutions without zero padding: the
    shift would be missing in the padding.
    """

    name = "fold_norm_affine"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether one can be folded."""
        return bool(_foldable(network))

    @torch.no_grad()
    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Fold all that can be."""
        for found in _foldable(network):
            norm = found.norm
            for layer in found.layers:
                _scale_and_shift_inputs(layer, norm.weight, norm.bias)
            norm.elementwise_affine = False
            norm.weight = norm.bias = None  # type: ignore[assignment]  # as torch has it without elementwise_affine
        return network


def _foldable(network: MultiTaskNetwork) -> list[_Foldable]:
    flow = flow_of(network)
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm) and _is_affine(module)]
    norm_of = {id(norm.weight): norm for norm in norms}
    found = []
    for call in flow.norms:
        # The operator knows no module, but it was given the weight of one.
        norm = norm_of.get(id(call.args[2]))
        if norm is None or len(flow.readers[id(norm.weight)]) > 1:
            continue
        layers = layers_that_alone_read(flow, call.outputs[0])
        if layers and not _is_shared(network, [norm, *layers]) and _saves_parameters(norm, layers):
            found.append(_Foldable(norm, layers))
    return found


def _is_affine(norm: nn.LayerNorm) -> bool:
    return norm.elementwise_affine and len(norm.normalized_shape) == 1


def _is_shared(network: nn.Module, modules: list[nn.Module]) -> bool:
    """Whether any of their parameters belongs to another module too."""
    owners = [id(parameter) for _, parameter in network.named_parameters(remove_duplicate=False)]
    return any(owners.count(id(parameter)) > 1 for module in modules for parameter in module.parameters())


def _saves_parameters(norm: nn.LayerNorm, layers: list[Layer]) -> bool:
    """Whether the biases that layers without one need are fewer than what the norm gives up."""
    given_up = sum(parameter.numel() for parameter in norm.parameters())
    needed = sum(layer.weight.shape[0] for layer in layers if layer.bias is None and norm.bias is not None)
    return needed < given_up


def _scale_and_shift_inputs(layer: Layer, gain_C: Tensor, shift_C: Tensor | None) -> None:
    """Make a layer that read g x + t read x."""
    weight = layer.weight
    across = (1, -1, *[1] * (weight.ndim - 2))
    if shift_C is not None:
        missing_O = (weight * shift_C.reshape(across)).flatten(1).sum(dim=1)
        layer.bias = nn.Parameter(missing_O if layer.bias is None else layer.bias + missing_O)
    layer.weight = nn.Parameter(weight * gain_C.reshape(across))
