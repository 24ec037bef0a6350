"""A cheaper way through the SegFormer decoder while training: same parameters, same function, a third of the time.

smp projects every scale, upsamples, concatenates and then mixes 4 C channels with a 1x1 convolution at the largest
scale. A 1x1 convolution and bilinear upsampling commute, so that convolution is split by scale and merged into the
projection before it; the upsampled scales are summed, not concatenated. Only the weights' products are computed anew in
every step, which autograd differentiates back to smp's own parameters.

Layout legend: N frames, C channels, D channels of all scales together, h w rows and columns of one scale, H W of the
largest scale.
"""

from __future__ import annotations

import torch
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from torch import Tensor, nn
from torch.nn import functional

from spacecompile.network.model import MultiTaskNetwork


class TrainingForward(nn.Module):
    """The network's forward pass, through the fused decoder if it has a SegFormer decoder.

    It shares every parameter and buffer with the network and holds none of its own.
    """

    def __init__(self, network: MultiTaskNetwork) -> None:
        super().__init__()
        self.network = network
        self.is_fused = type(network.decoder) is SegformerDecoder

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """As `MultiTaskNetwork.forward`, up to rounding and without a box head, which is trained by itself."""
        network = self.network
        features = network.encoder(input_NCHW)
        decoded_NChw = fused_decoder(network.decoder, features) if self.is_fused else network.decoder(features)
        part_logits_NKhw = network.segmentation_head(decoded_NChw)
        # Sums over thousands of places lose their digits in bfloat16.
        with torch.autocast(input_NCHW.device.type, enabled=False):
            seen = (features[-1], decoded_NChw, part_logits_NKhw)
            class_logits_NL = network.class_logits(*(_not_half(tensor) for tensor in seen))
        return class_logits_NL, part_logits_NKhw


def _not_half(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def fused_decoder(decoder: SegformerDecoder, features: list[Tensor]) -> Tensor:
    """What `SegformerDecoder.forward` computes.

    Args:
        decoder: Decoder whose parameters and running statistics are used.
        features: Features of the encoder: the input itself first, then from large to small.

    Returns:
        [N, C, H, W] at a quarter of the input's size.
    """
    size_px = (features[0].shape[2] // 4, features[0].shape[3] // 4)
    scales = (features[2:] if features[1].shape[1] == 0 else features[1:])[::-1]
    convolution, norm, activation = decoder.fuse_stage
    weights, bias_C = _merged([stage.linear for stage in decoder.mlp_stage], convolution)
    scales = [_reduced(feature, size_px) for feature in scales]
    projected = [
        functional.linear(feature.permute(0, 2, 3, 1), weight) for feature, weight in zip(scales, weights, strict=True)
    ]
    total_NHWC = _sum_at_size(projected, size_px) + bias_C.to(projected[0].dtype)
    fused: Tensor = activation(norm(total_NHWC.permute(0, 3, 1, 2)))
    return fused


def _reduced(feature_NChw: Tensor, size_px: tuple[int, int]) -> Tensor:
    """A scale that is larger than the result at the result's size, while it has few channels: projection commutes."""
    if feature_NChw.shape[2] <= size_px[0]:
        return feature_NChw
    if feature_NChw.shape[2:] == (2 * size_px[0], 2 * size_px[1]):  # where bilinear is the mean of four pixels
        return functional.avg_pool2d(feature_NChw, 2)
    return functional.interpolate(feature_NChw, size_px, mode="bilinear", align_corners=False)


def _merged(linears: list[nn.Linear], convolution: nn.Conv2d) -> tuple[list[Tensor], Tensor]:
    """One weight per scale, and one bias for their sum: bilinear weights add up to 1, so biases pass through."""
    with torch.autocast(convolution.weight.device.type, enabled=False):
        # Along the axes' order in memory and not by index: the gradient then lies as the weight does, channels last,
        # or data parallelism warns and copies it.
        weight_CD = convolution.weight.permute(0, 2, 3, 1).flatten(1)
        parts = weight_CD.chunk(len(linears), 1)
        weights = [part @ linear.weight for part, linear in zip(parts, linears, strict=True)]
        bias_C = torch.stack([part @ linear.bias for part, linear in zip(parts, linears, strict=True)]).sum(0)
        return weights, bias_C if convolution.bias is None else bias_C + convolution.bias


def _sum_at_size(scales_NhwC: list[Tensor], size_px: tuple[int, int]) -> Tensor:
    """Bilinear upsampling to a common size, then the sum, as two matrix products.

    torch's own bilinear backward is slow on a CPU in bfloat16: it took a sixth of a training step.
    """
    height_px, width_px = size_px
    full = [scale for scale in scales_NhwC if tuple(scale.shape[1:3]) == size_px]
    small = [scale for scale in scales_NhwC if tuple(scale.shape[1:3]) != size_px]
    if not small:
        return torch.stack(full).sum(0)
    widened = [_bilinear(scale, width_px, scale.shape[2]) @ scale for scale in small]
    rows_NrX = torch.cat([scale.flatten(2) for scale in widened], 1)
    heights_Hr = torch.cat([_bilinear(scale, height_px, scale.shape[1]) for scale in small], 1)
    total_NHWC: Tensor = (heights_Hr @ rows_NrX).reshape(-1, height_px, width_px, small[0].shape[3])
    for scale in full:
        total_NHWC = total_NHWC + scale
    return total_NHWC


def _bilinear(like: Tensor, target_px: int, source_px: int) -> Tensor:
    """Matrix [target, source] of one axis of bilinear upsampling with half-pixel centres."""
    identity = torch.eye(source_px, dtype=torch.float64, device=like.device)[None]
    matrix = functional.interpolate(identity, size=target_px, mode="linear", align_corners=False)
    return matrix[0].T.contiguous().to(like.dtype)
