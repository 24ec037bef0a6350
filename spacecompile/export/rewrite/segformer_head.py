"""The SegFormer decoder with one projection per scale, before upsampling instead of after.

Layout legend: N batch, C channels, H W rows and columns.
"""

from __future__ import annotations

import torch
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from torch import Tensor, nn
from torch.nn import functional

from spacecompile.export.rewrite.base import Pass
from spacecompile.network.model import MultiTaskNetwork


class CollapsedSegformerDecoder(nn.Module):
    """Sum of one projected, resized feature map per scale, then ReLU."""

    def __init__(self, projections: list[nn.Conv2d]) -> None:
        """Take over the projections.

        Args:
            projections: 1x1 convolutions, from the coarsest scale to the finest, all with the same outputs.
        """
        super().__init__()
        self.projections = nn.ModuleList(projections)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Decode.

        Args:
            features: Features as smp encoders give them: the input [N, 3, H, W], then maps from fine to coarse, the
                first of which has no channels where the encoder has no stage at half resolution.

        Returns:
            [N, C, H/4, W/4].
        """
        height_px, width_px = (int(size_px) // 4 for size_px in features[0].shape[2:])
        scales = [feature for feature in features[1:] if feature.shape[1] > 0][::-1]
        total_NCHW = self._at_size(0, scales[0], (height_px, width_px))
        for index, feature in enumerate(scales[1:], start=1):
            total_NCHW = total_NCHW + self._at_size(index, feature, (height_px, width_px))
        return functional.relu(total_NCHW)

    def _at_size(self, index: int, feature_NCHW: Tensor, size_px: tuple[int, int]) -> Tensor:
        """Project and resize, in the order that costs less. Both commute, as bilinear weights sum to one."""
        if feature_NCHW.shape[2] * feature_NCHW.shape[3] > size_px[0] * size_px[1]:
            resized_NCHW = _resized(feature_NCHW, size_px)
            projected_NCHW: Tensor = self.projections[index](resized_NCHW)
            return projected_NCHW
        return _resized(self.projections[index](feature_NCHW), size_px)


def _resized(feature_NCHW: Tensor, size_px: tuple[int, int]) -> Tensor:
    if tuple(feature_NCHW.shape[2:]) == size_px:
        return feature_NCHW
    return functional.interpolate(feature_NCHW, size_px, mode="bilinear", align_corners=False)


class CollapseSegformerHead(Pass):
    """Merge the projection of each scale with its share of the 1x1 fuse convolution.

    With F = [F_1 ... F_n] the fuse weights split by scale: sum F_i up(P_i x_i + p_i) + f = sum up(F_i P_i x_i) + b,
    b = f + sum F_i p_i, since upsampling is linear, works per channel and leaves constants as they are.
    """

    name = "collapse_segformer_head"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether there is such a decoder with its batch norm already folded."""
        return any(_is_collapsible(module) for module in network.modules())

    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Replace each such decoder."""
        decoders = [(path, module) for path, module in network.named_modules() if _is_collapsible(module)]
        for path, decoder in decoders:
            network.set_submodule(path, _collapsed(decoder))
        return network


def _is_collapsible(module: nn.Module) -> bool:
    if not isinstance(module, SegformerDecoder):
        return False
    fuse, norm, activation = module.get_submodule("fuse_stage").children()
    plain = isinstance(fuse, nn.Conv2d) and fuse.kernel_size == (1, 1) and fuse.groups == 1
    return plain and isinstance(norm, nn.Identity) and isinstance(activation, nn.ReLU)


@torch.no_grad()
def _collapsed(decoder: nn.Module) -> CollapsedSegformerDecoder:
    fuse_weight, fuse_bias = _weight_and_bias(decoder.get_submodule("fuse_stage.0"))
    linears = [
        _weight_and_bias(stage.get_submodule("linear")) for stage in decoder.get_submodule("mlp_stage").children()
    ]
    shares = fuse_weight[:, :, 0, 0].chunk(len(linears), dim=1)
    weights = [share @ weight for share, (weight, _) in zip(shares, linears, strict=True)]
    bias = fuse_bias + sum(share @ bias for share, (_, bias) in zip(shares, linears, strict=True))
    # The finest scale needs no resize, so its convolution is the one that can carry the bias for free.
    biases = [None] * (len(weights) - 1) + [bias]
    return CollapsedSegformerDecoder([_projection(*pair) for pair in zip(weights, biases, strict=True)])


def _weight_and_bias(module: nn.Module) -> tuple[Tensor, Tensor]:
    parameters = dict(module.named_parameters())
    return parameters["weight"], parameters["bias"]


def _projection(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    outputs, inputs = weight.shape
    projection = nn.Conv2d(inputs, outputs, 1, bias=bias is not None, device=weight.device, dtype=weight.dtype)
    projection.weight = nn.Parameter(weight[:, :, None, None])
    projection.bias = None if bias is None else nn.Parameter(bias)
    return projection
