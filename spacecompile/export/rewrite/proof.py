"""The proof of a rewrite pass: two networks compared in float64 on random input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segmentation_models_pytorch.decoders.pan.decoder import FPABlock
from torch import Tensor, nn

from spacecompile.network.model import MultiTaskNetwork

OUTPUT_NAMES = ("class logits", "part logits", "box residuals")
"""Outputs of a network in order; the last one only where it has a box head."""


@dataclass(frozen=True, kw_only=True)
class PassProofSettings:
    """What a pass is proven on.

    The input is smaller than the network's own, because a pass rewrites weights and their order, never anything
    that depends on the resolution. It is not square and holds more than one element, so that a pass that swaps
    height and width or mixes batch elements is caught.

    Attributes:
        input_size_px: Size as (height, width), multiples of 64 so that nearly every smp decoder takes them.
        batch: Number of inputs.
        seed: Seed of the input's standard normal values.
        relative_error_max: Largest |after - before| over largest |before| that counts as the same network.
    """

    input_size_px: tuple[int, int] = (64, 128)
    batch: int = 2
    seed: int = 0
    relative_error_max: float = 1e-9


def proof_input(network: nn.Module, settings: PassProofSettings) -> Tensor:
    """Seeded float64 input [N, 3, H, W] on the network's device; four times as large for PAN, which pools more."""
    generator = torch.Generator().manual_seed(settings.seed)
    factor = 4 if any(isinstance(module, FPABlock) for module in network.modules()) else 1
    shape = (settings.batch, 3, *(factor * length_px for length_px in settings.input_size_px))
    # Drawn on the CPU: the generator of a GPU gives other numbers for the same seed.
    input_NCHW = torch.randn(shape, generator=generator, dtype=torch.float64)
    return input_NCHW.to(next(network.parameters()).device)


@torch.no_grad()
def relative_errors(before: nn.Module, after: nn.Module, settings: PassProofSettings) -> dict[str, float]:
    """Largest |after - before| over largest |before| of each output.

    Args:
        before: Network before the pass, in float64 and evaluation mode.
        after: Network after the pass, in float64 and evaluation mode.
        settings: Input of the proof.

    Returns:
        One number per output, by its name; infinity when shapes differ or a value is not finite.
    """
    input_NCHW = proof_input(before, settings)
    expected = _true_logits(before, *before(input_NCHW))
    seen = _true_logits(after, *after(_as_taken_by(after, before, input_NCHW)))
    outputs = zip(OUTPUT_NAMES[: len(expected)], expected, seen, strict=True)
    return {name: _relative_error(*pair) for name, *pair in outputs}


def _as_taken_by(taker: nn.Module, giver: nn.Module, input_NCHW: Tensor) -> Tensor:
    """The same picture as another network wants it, where their specs normalise differently."""
    if not isinstance(taker, MultiTaskNetwork) or not isinstance(giver, MultiTaskNetwork):
        return input_NCHW
    per_channel = (giver.spec.mean, giver.spec.std, taker.spec.mean, taker.spec.std)
    mean_C11, std_C11, wanted_mean_C11, wanted_std_C11 = (
        torch.tensor(values, dtype=input_NCHW.dtype, device=input_NCHW.device)[:, None, None] for values in per_channel
    )
    # Equal means cancel, and to add and subtract them would only cost digits.
    if giver.spec.mean == taker.spec.mean:
        return input_NCHW * (std_C11 / wanted_std_C11)
    return (input_NCHW * std_C11 + mean_C11 - wanted_mean_C11) / wanted_std_C11


def _true_logits(
    network: nn.Module, class_logits_NL: Tensor, part_logits_NKhw: Tensor, *residuals: Tensor
) -> tuple[Tensor, ...]:
    """What the network gives, without the shift of part logits that its spec names."""
    offset = network.spec.part_logit_offset if isinstance(network, MultiTaskNetwork) else 0.0
    return class_logits_NL, part_logits_NKhw + offset, *residuals


def _relative_error(expected: Tensor, seen: Tensor) -> float:
    if expected.shape != seen.shape or not bool(torch.isfinite(expected).all() and torch.isfinite(seen).all()):
        return float("inf")
    # An output that is zero everywhere has no scale, so that its plain error counts.
    largest = float(expected.abs().max())
    difference = float((seen - expected).abs().max())
    return difference / largest if largest > 0 else difference
