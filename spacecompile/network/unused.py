"""Layers that no output depends on, found by their gradients.

smp and timm register whole encoders whatever depth is used, and timm's run them: EfficientNet-Lite0 cut at stride 16
carries 2.26 M parameters of 2.96 M that reach no feature.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
"""Code loops over these, so they stay and their children go."""


class _Unused(nn.Module):
    """Gives back its first argument; some blocks are called with more than one."""

    def forward(self, first: Tensor, *_: object, **__: object) -> Tensor:
        return first


def without_unused_layers(module: nn.Module, input_NCHW: Tensor) -> nn.Module:
    """Put an identity in the place of every layer whose parameters reach no output.

    Args:
        module: Module that gives a sequence of tensors; changed in place.
        input_NCHW: Input that a copy is run on, see `unused_layers`.

    Returns:
        The module itself.
    """
    for path in unused_layers(module, input_NCHW):
        module.set_submodule(path, _Unused())
    return module


def unused_layers(module: nn.Module, input_NCHW: Tensor) -> list[str]:
    """Paths of the outermost layers whose parameters all reach no output.

    Args:
        module: Module that gives a sequence of tensors; left as it is.
        input_NCHW: Input that a copy is run on, on the input's device: on `meta` without values, which is quick.
    """
    parameters = {name for name, _ in module.named_parameters()}
    unused = parameters - reaching_parameters(module, input_NCHW)
    return _outermost(module, "", unused) if unused else []


def reaching_parameters(module: nn.Module, input_NCHW: Tensor, outputs: slice = slice(None)) -> set[str]:
    """Names of the parameters that an output has a gradient for, be it zero.

    Args:
        module: Module that gives a sequence of tensors; left as it is.
        input_NCHW: Input that a copy is run on, on the input's device.
        outputs: Slice of the tensors to consider.
    """
    probe = copy.deepcopy(module).to(input_NCHW.device).requires_grad_(True).eval()
    named = dict(probe.named_parameters())
    with torch.enable_grad():
        given: Sequence[Tensor] = probe(input_NCHW)
        sums = [output.sum() for output in given[outputs] if output.requires_grad and output.numel()]
        if not sums:
            return set()
        gradients = torch.autograd.grad(torch.stack(sums).sum(), list(named.values()), allow_unused=True)
    return {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}


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
    """An unused module, or what lies in it where it is a container."""
    # Activations and pools in a container go too: one that works in place would change the tensor that now passes by.
    if type(module) not in _CONTAINERS:
        return [path]
    return [block for name, child in module.named_children() for block in _blocks(child, f"{path}.{name}")]
