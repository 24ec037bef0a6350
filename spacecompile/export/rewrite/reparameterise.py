"""Training-time branches merged into one convolution: RepVGG, MobileOne, FastViT, RepViT and their relatives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from spacecompile.export.rewrite.base import Pass, dtype_of
from spacecompile.network.model import MultiTaskNetwork

_IN_PLACE = ("reparameterize", "switch_to_deploy")
"""What timm and smp call the method that merges a block's branches inside the block."""


class Reparameterise(Pass):
    """Let every block that knows how merge its branches.

    The arithmetic is the blocks' own: timm's `fuse` gives a module that takes the block's place, `reparameterize` and
    `switch_to_deploy` change the block. This pass finds them, has them compute in the network's dtype, and proves them.
    """

    name = "reparameterise"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether any block still has branches."""
        if not any(_merge_of(child) for child in network.modules()):
            return False
        # The methods stay after they have done their work, so only trying tells.
        return len(self.apply(copy.deepcopy(network)).state_dict()) < len(network.state_dict())

    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Merge all of them, outermost first: a block merges what is inside it."""
        with _modules_made_in(dtype_of(network)), torch.no_grad():
            _merge_below(network)
        return network


def _merge_below(parent: nn.Module) -> None:
    for name, child in list(parent.named_children()):
        merge = _merge_of(child)
        merged = merge() if merge else None
        if isinstance(merged, nn.Module):
            parent.register_module(name, merged)
        else:
            _merge_below(child)


def _merge_of(module: nn.Module) -> Callable[[], nn.Module | None] | None:
    """The method that merges a module's branches; None if it has none, or has done it."""
    if isinstance(getattr(module, "reparam_conv", None), nn.Conv2d):
        return None
    # Looked up in the class, because `fuse` is also what some decoders call a child.
    name = next((name for name in ("fuse", *_IN_PLACE) if callable(getattr(type(module), name, None))), None)
    return getattr(module, name) if name else None


@contextmanager
def _modules_made_in(dtype: torch.dtype) -> Iterator[None]:
    """The merged convolutions that timm makes have the default dtype, to which it would round float64 weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
