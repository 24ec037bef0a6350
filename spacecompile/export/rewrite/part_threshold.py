"""A calibrated part threshold, moved into the bias of the segmentation head."""

from __future__ import annotations

import math

import torch
from msgspec.structs import replace
from torch import nn

from spacecompile.export.rewrite.base import Pass
from spacecompile.export.sealed.box_of_maxima import logit
from spacecompile.network.model import MultiTaskNetwork


class FoldPartThreshold(Pass):
    """Shift the part logits so that the body's mask begins at 0.

    Both parts are shifted by the same amount, which the network's spec names: the box, the confidence and the mean over
    views need true logits, and the largest logit over the parts minus one number is still that. A shift of each
    part by its own threshold would have to be taken back over the whole frame before the box.
    """

    name = "fold_part_threshold"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether the body's threshold is not 0 in logits, and one convolution makes the part logits."""
        return network.spec.part_thresholds[0] != 0.5 and _head(network) is not None

    @torch.no_grad()
    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Fold it."""
        head, spec = _head(network), network.spec
        assert head is not None  # requires
        body, panel = (logit(threshold) for threshold in spec.part_thresholds)
        bias = torch.zeros_like(head.weight[:, 0, 0, 0]) if head.bias is None else head.bias
        head.bias = nn.Parameter(bias - body)
        network.spec = replace(
            spec,
            # Of the panel's threshold remains what it is above the body's, in logits.
            part_thresholds=(0.5, 1 / (1 + math.exp(body - panel))),
            part_logit_offset=spec.part_logit_offset + body,
        )
        return network


def _head(network: MultiTaskNetwork) -> nn.Conv2d | None:
    """The convolution of a segmentation head that holds nothing else; None for any other."""
    modules = [module for module in network.segmentation_head.modules() if not list(module.children())]
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    others = [module for module in modules if not isinstance(module, nn.Conv2d | nn.Identity)]
    return convolutions[0] if len(convolutions) == 1 and not others else None
