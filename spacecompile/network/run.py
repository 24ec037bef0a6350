"""Whether a network runs at all at a size: smp refuses some pairs only then."""

from __future__ import annotations

import torch
from torch import Tensor

from spacecompile.errors import CheckpointError, first_line_of
from spacecompile.network.head import BUILD_ERRORS
from spacecompile.network.model import MultiTaskNetwork


@torch.inference_mode()
def run_once(network: MultiTaskNetwork, input_size_px: tuple[int, int], *, seed: int = 0) -> tuple[Tensor, ...]:
    """Run a network on one random input in float32.

    Args:
        network: Network in float32 and evaluation mode.
        input_size_px: Size of the input as (height, width).
        seed: Seed of the input's standard normal values.

    Returns:
        Class logits [1, L], part logits [1, K, h, w] and, with a box head, its residuals [1, 4].

    Raises:
        CheckpointError: If smp or timm refuses the size.
    """
    spec = network.spec
    input_1CHW = torch.randn(1, 3, *input_size_px, generator=torch.Generator().manual_seed(seed))
    try:
        outputs: tuple[Tensor, ...] = network(input_1CHW)
    except BUILD_ERRORS as error:
        reason = first_line_of(error)
        raise CheckpointError(
            f"{spec.architecture} with encoder {spec.encoder} does not run on an input of "
            f"{input_size_px[0]}x{input_size_px[1]}: {reason}. Try a larger --imgsz, a multiple of 64."
        ) from error
    return outputs
