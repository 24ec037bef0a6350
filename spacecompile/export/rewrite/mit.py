"""The blocks of a Mix Transformer (SegFormer, arXiv:2105.15203), laid out for inference.

Same maths as smp's blocks, in the order of operators that runtimes like. Tokens become an image by one reshape and one
permutation of four axes, and back: ONNX Runtime and OpenVINO merge exactly that pair into the memory layout of the
convolution beside it, but not smp's transposition of flattened tokens. The feed-forward network stays an image from its
first to its last matrix product, which are 1x1 convolutions here, so that nothing is moved around its depthwise one.

Layout legend: N batch, L tokens, C channels, H W rows and columns, M key tokens after the reduction, h heads, d
channels per head.
"""

from __future__ import annotations

from torch import Tensor, nn


def tokens_from_image(image_NCHW: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H W, C]."""
    return image_NCHW.permute(0, 2, 3, 1).flatten(1, 2)


def image_from_tokens(tokens_NLC: Tensor, size_px: tuple[int, int]) -> Tensor:
    """[N, H W, C] -> [N, C, H, W]."""
    batch, _, channels = tokens_NLC.shape
    return tokens_NLC.reshape(batch, *size_px, channels).permute(0, 3, 1, 2)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of an image."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Normalise every pixel."""
        size_px = (image_NCHW.shape[2], image_NCHW.shape[3])
        return image_from_tokens(self.norm(tokens_from_image(image_NCHW)), size_px)


class Reduction(nn.Module):
    """Fewer tokens for keys and values: a convolution whose stride is its kernel, then layer norm."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = norm

    def forward(self, tokens_NLC: Tensor, size_px: tuple[int, int]) -> Tensor:
        """[N, L, C] -> [N, M, C]."""
        reduced_NChw = self.convolution(image_from_tokens(tokens_NLC, size_px))
        reduced_NMC: Tensor = self.norm(tokens_from_image(reduced_NChw))
        return reduced_NMC


class MultiHeadAttention(nn.Module):
    """Attention of all tokens to the reduced ones, or to all where there is no reduction."""

    def __init__(
        self,
        *,
        query: nn.Linear,
        key_value: nn.Linear,
        output: nn.Linear,
        reduction: Reduction | None,
        num_heads: int,
        scale: float,
    ) -> None:
        """Take over the layers.

        Args:
            query: Query projection, C to C.
            key_value: Key and value projection, C to 2 C, all heads' keys first.
            output: Output projection, C to C.
            reduction: Reduction of the tokens that keys and values come from; None for all tokens.
            num_heads: Number of heads, a divisor of C.
            scale: Factor on the scores; 1 when the query already carries it.
        """
        super().__init__()
        self.query = query
        self.key_value = key_value
        self.output = output
        self.reduction = reduction
        self.num_heads = num_heads
        self.scale = scale

    def forward(self, tokens_NLC: Tensor, size_px: tuple[int, int]) -> Tensor:
        """[N, L, C] -> [N, L, C]."""
        batch, length, channels = tokens_NLC.shape
        head_channels = channels // self.num_heads
        query_NLhd = self.query(tokens_NLC).reshape(batch, length, self.num_heads, head_channels)
        reduced_NMC = tokens_NLC if self.reduction is None else self.reduction(tokens_NLC, size_px)
        key_value_NM2hd = self.key_value(reduced_NMC).reshape(batch, -1, 2, self.num_heads, head_channels)
        key_NhMd, value_NhMd = key_value_NM2hd.permute(2, 0, 3, 1, 4).unbind(0)
        scores_NhLM = query_NLhd.permute(0, 2, 1, 3) @ key_NhMd.transpose(-2, -1)
        # Once the scale is folded, the exported graph shall hold no multiplication by 1.
        if self.scale != 1.0:
            scores_NhLM = scores_NhLM * self.scale
        mixed_NhLd = scores_NhLM.softmax(dim=-1) @ value_NhMd
        mixed_NLC: Tensor = self.output(mixed_NhLd.permute(0, 2, 1, 3).reshape(batch, length, channels))
        return mixed_NLC


class SingleHeadAttention(nn.Module):
    """Attention with one head whose query and output projections live in its keys and values."""

    def __init__(self, *, key: nn.Linear, value: nn.Linear, reduction: Reduction) -> None:
        """Take over the layers.

        Args:
            key: Key projection, C to C, which holds the query projection and the scale.
            value: Value projection, C to C, which holds the output projection.
            reduction: Reduction of the tokens that keys and values come from.
        """
        super().__init__()
        self.key = key
        self.value = value
        self.reduction = reduction

    def forward(self, tokens_NLC: Tensor, size_px: tuple[int, int]) -> Tensor:
        """[N, L, C] -> [N, L, C]."""
        reduced_NMC = self.reduction(tokens_NLC, size_px)
        # The axis of the one head stays: OpenVINO 2026.4 crashes while compiling attention without it.
        key_NhMd, value_NhMd = self.key(reduced_NMC).unsqueeze(1), self.value(reduced_NMC).unsqueeze(1)
        scores_NhLM = tokens_NLC.unsqueeze(1) @ key_NhMd.transpose(-2, -1)
        mixed_NhLd: Tensor = scores_NhLM.softmax(dim=-1) @ value_NhMd
        return mixed_NhLd.squeeze(1)


class FeedForward(nn.Module):
    """1x1 convolution, depthwise 3x3, activation, 1x1 convolution."""

    def __init__(self, *, expand: nn.Conv2d, depthwise: nn.Conv2d, activation: nn.Module, contract: nn.Conv2d) -> None:
        super().__init__()
        self.expand = expand
        self.depthwise = depthwise
        self.activation = activation
        self.contract = contract

    def forward(self, tokens_NLC: Tensor, size_px: tuple[int, int]) -> Tensor:
        """[N, L, C] -> [N, L, C]."""
        hidden_NCHW = self.depthwise(self.expand(image_from_tokens(tokens_NLC, size_px)))
        return tokens_from_image(self.contract(self.activation(hidden_NCHW)))


class Block(nn.Module):
    """Attention and feed-forward network, each behind a layer norm and around a residual."""

    def __init__(
        self,
        *,
        attention_norm: nn.LayerNorm,
        attention: MultiHeadAttention | SingleHeadAttention,
        feed_forward_norm: nn.LayerNorm,
        feed_forward: FeedForward,
    ) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention: MultiHeadAttention | SingleHeadAttention = attention
        self.feed_forward_norm = feed_forward_norm
        self.feed_forward = feed_forward

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]; between blocks both conversions cancel in the exported graph."""
        size_px = (image_NCHW.shape[2], image_NCHW.shape[3])
        tokens_NLC = tokens_from_image(image_NCHW)
        tokens_NLC = tokens_NLC + self.attention(self.attention_norm(tokens_NLC), size_px)
        tokens_NLC = tokens_NLC + self.feed_forward(self.feed_forward_norm(tokens_NLC), size_px)
        return image_from_tokens(tokens_NLC, size_px)
