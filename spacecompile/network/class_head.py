"""A classifier that looks at the craft: features averaged with the predicted parts as weights.

A craft covers a few percent of a median frame, so that the mean over the whole frame, which smp's classifier takes,
says little about it.

Layout legend: N batch, C channels, E embedded channels, K parts, L classes, H W part-logit rows and columns, h w rows
and columns of some features, S places of these features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from spacecompile.contract import PARTS
from spacecompile.errors import CheckpointError

_EMBEDDED_CHANNELS = 256
"""Width of the 1x1 convolution on the deepest features, as before the pooling of most ImageNet classifiers."""

_PROBABILITY_MIN = 0.25
"""A part probability that counts as none. The tails of an empty mask add up to as much as a small craft, and their
digits are lost in half precision: with 0.02, a float16 error of 0.05 in 25 logits of a plain blue frame moved a class
probability by 0.047. Which classes a trained network names does not depend on it between 0.02 and 0.25."""

FLOOR_PX = 8.0
"""Pixels of a part, on the part logits' grid, that count as none: without a craft the pooled features go to zero. The
smallest craft that can be told from others covers some hundred."""


class MaskPooledClassifier(nn.Module):
    """Class logits from features under the predicted parts: the encoder's deepest, embedded, and the decoder's.

    Each part pools for itself, so that body and panel are told apart. The weights carry no gradient: the class must not
    bend the masks.
    """

    def __init__(self, *, deepest_channels: int, decoder_channels: int, num_classes: int, dropout: float) -> None:
        """Build the untrained classifier.

        Args:
            deepest_channels: Channels of the encoder's last features.
            decoder_channels: Channels of the decoder's output.
            num_classes: Number of class logits.
            dropout: Probability with which a pooled feature is dropped in training.
        """
        super().__init__()
        self.embed = nn.Conv2d(deepest_channels, _EMBEDDED_CHANNELS, kernel_size=1)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.linear = nn.Linear(len(PARTS) * (_EMBEDDED_CHANNELS + decoder_channels), num_classes)

    def forward(self, deepest_NChw: Tensor, decoded_NChw: Tensor, part_logits_NKHW: Tensor) -> Tensor:
        """Classify what the parts cover.

        Args:
            deepest_NChw: The encoder's last features.
            decoded_NChw: The decoder's output.
            part_logits_NKHW: True logits, on a grid whose sides are whole multiples of the features' sides.

        Returns:
            Class logits [N, L].
        """
        weights_NKHW = torch.relu(torch.sigmoid(part_logits_NKHW.detach()) - _PROBABILITY_MIN)
        embedded_NEhw = torch.relu(self.embed(deepest_NChw))
        pooled = [pooled_under(weights_NKHW, features) for features in (embedded_NEhw, decoded_NChw)]
        logits_NL: Tensor = self.linear(self.dropout(torch.cat(pooled, dim=1)))
        return logits_NL


def pooled_under(weights_NKHW: Tensor, features_NChw: Tensor) -> Tensor:
    """Weighted mean of features over their places, one for each part.

    Both sums are scaled by the grid's side: in half precision neither a craft that fills the frame overflows nor one of
    a few pixels vanishes.

    Args:
        weights_NKHW: Weights, 0 to 1, on a grid whose sides are whole multiples of the features' sides.
        features_NChw: Features to average.

    Returns:
        Means [N, K * C], the channels of a part beside each other; zero where the part has no weight.

    Raises:
        CheckpointError: If the sides are no whole multiples.
    """
    size_px, weights_px = _size_px(features_NChw), _size_px(weights_NKHW)
    scale = 1 / math.sqrt(size_px[0] * size_px[1])
    floor_places = FLOOR_PX * (size_px[0] * size_px[1]) / (weights_px[0] * weights_px[1])
    weights_NKS = _reduced(weights_NKHW, size_px).flatten(2) * scale
    # In this order gradients come back with the channels last, as the features lie in training.
    sums_NKC = weights_NKS @ features_NChw.flatten(2).transpose(1, 2)
    mass_NK1 = weights_NKS.sum(dim=2, keepdim=True) + floor_places * scale
    return (sums_NKC / mass_NK1).flatten(1)


def _size_px(maps_NChw: Tensor) -> tuple[int, int]:
    """Height and width as numbers: fvcore, which counts, runs the network with shapes that are tensors."""
    return int(maps_NChw.shape[2]), int(maps_NChw.shape[3])


def _reduced(weights_NKHW: Tensor, size_px: tuple[int, int]) -> Tensor:
    """The mean of the weights in each cell of a smaller grid."""
    (rows, rest_h), (columns, rest_w) = (
        divmod(side, cells) for side, cells in zip(_size_px(weights_NKHW), size_px, strict=True)
    )
    if rest_h or rest_w or not rows * columns:
        raise CheckpointError(
            f"part logits of {tuple(weights_NKHW.shape[2:])} px can't weigh features of {size_px} px: they are no "
            "whole multiple. Take class pooling 'mean', or an --imgsz that is a multiple of 64."
        )
    return functional.avg_pool2d(weights_NKHW, (rows, columns)) if rows * columns > 1 else weights_NKHW
