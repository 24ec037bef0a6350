"""Removal of layers that no output depends on."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from spacecompile.export.rewrite.base import Pass
from spacecompile.export.rewrite.proof import ProofSettings, proof_input
from spacecompile.network.model import MultiTaskNetwork

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
"""Code loops over these, so they stay and their children go."""


class RemoveUnused(Pass):
    """Put an identity in the place of every layer whose parameters reach no output.

    smp registers whole encoders whatever depth it uses: PSPNet on MiT-B0 carries 2.900 M parameters of 3.400 M that are
    never used, and EfficientNet-B0 its classifier's last convolution, 0.412 M.
    """

    name = "remove_unused"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether any layer is unused."""
        return bool(unused_layers(network))

    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Replace each of them."""
        for path in unused_layers(network):
            network.set_submodule(path, _Unused())
        return network


class _Unused(nn.Module):
    """Gives back its first argument; some blocks are called with more than one."""

    def forward(self, first: Tensor, *_: object, **__: object) -> Tensor:
        return first


def unused_layers(network: MultiTaskNetwork) -> list[str]:
    """Paths of the outermost modules whose parameters all reach no output."""
    unused = _unused_parameters(network)
    return _outermost(network, "", unused) if unused else []


def _unused_parameters(network: MultiTaskNetwork) -> set[str]:
    """Names of the parameters that no output has a gradient for, not even a zero one."""
    probe = copy.deepcopy(network).requires_grad_(True)
    named = dict(probe.named_parameters())
    with torch.enable_grad():
        outputs = probe(proof_input(probe, ProofSettings(batch=1)))
        total = torch.stack([output.sum() for output in outputs]).sum()
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name for name, gradient in zip(named, gradients, strict=True) if gradient is None}


def _outermost(module: nn.Module, path: str, unused: set[str]) -> list[str]:
    found = []
    for name, child in module.named_children():
        child_path = f"{path}.{name}" if path else name
        names = {f"{child_path}.{parameter}" for parameter, _ in child.named_parameters()}
        if names and names <= unused:
            found += _blocks(child, child_path)
        elif names & unused:
            found += _outermost(child, child_path, unused)
    return found


def _blocks(module: nn.Module, path: str) -> list[str]:
    """An unused module, or what lies in it where it is a container.

    Activations and pools in a container go too: one that works in place would change the tensor that now passes by.
    """
    if type(module) not in _CONTAINERS:
        return [path]
    return [block for name, child in module.named_children() for block in _blocks(child, f"{path}.{name}")]
