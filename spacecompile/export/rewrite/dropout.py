"""Removal of dropout and stochastic depth, which only training uses."""

from __future__ import annotations

from timm.layers.drop import DropBlock2d, DropPath
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from spacecompile.export.rewrite.base import Pass
from spacecompile.network.model import MultiTaskNetwork

_DROPOUTS = (_DropoutNd, DropPath, DropBlock2d)
"""`_DropoutNd` is the base of every dropout in `torch.nn`, alpha dropouts included."""


class RemoveDropout(Pass):
    """Put an identity in the place of every dropout and stochastic depth."""

    name = "remove_dropout"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether any is there."""
        return any(isinstance(module, _DROPOUTS) for module in network.modules())

    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Replace each of them."""
        paths = [path for path, module in network.named_modules() if isinstance(module, _DROPOUTS)]
        for path in paths:
            network.set_submodule(path, nn.Identity())
        return network
