"""Parameters and multiply-adds of a network, in the two conventions that published numbers use."""

from __future__ import annotations

import logging
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from spacecompile.contract import Cost

with warnings.catch_warnings():
    # When imported, fvcore scripts a loss function that nothing here uses, and torch deprecates scripting.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    from fvcore.nn import FlopCountAnalysis


class _WithInputSizedMasks(nn.Module):
    """The network followed by the upsampling of its part logits to the input's size."""

    # The benchmark's count of the reference network (4.4827 G) includes that upsampling, so ours does too, before and
    # after a rewrite.

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, ...]:
        class_logits_NL, part_logits_NKhw, *residuals = self.network(input_NCHW)
        size_px = input_NCHW.shape[2:]
        return class_logits_NL, functional.interpolate(part_logits_NKhw, size_px, mode="bilinear"), *residuals


def cost_of(network: nn.Module, input_size_px: tuple[int, int]) -> Cost:
    """Count one forward pass on one RGB input, up to part logits of the input's size.

    fvcore counts one multiply-add once and adds norms, interpolation and pooling; it is what the benchmark calls
    GFLOPs. torch's counter counts a multiply-add twice and only matrix products and convolutions.

    Args:
        network: Network that takes a float32 tensor [1, 3, height, width].
        input_size_px: Size of the input as (height, width).
    """
    training = network.training
    network.eval()
    parameter = next(network.parameters())
    input_NCHW = torch.zeros(1, 3, *input_size_px, dtype=parameter.dtype, device=parameter.device)
    # fvcore warns per operator that it does not count (softmax, gelu); that is its convention.
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    with torch.no_grad():
        analysis = FlopCountAnalysis(_WithInputSizedMasks(network), input_NCHW)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        macs_fvcore = int(analysis.total())
        with FlopCounterMode(display=False) as counter:
            network(input_NCHW)
    network.train(training)
    params = sum(parameter.numel() for parameter in network.parameters())
    return Cost(params=params, macs_fvcore=macs_fvcore, macs_torch=counter.get_total_flops() // 2)
