"""Depthwise convolutions of a mixed-precision step on a CPU, in float32.

oneDNN's bfloat16 kernels for them are slow: 5x5 ones and the gradients of strided ones take 2.7 to 10 times as long as
in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class DepthwiseInFloat32(TorchFunctionMode):
    """Context within which convolutions with as many groups as channels compute in float32, whatever autocast says."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Take over depthwise convolution; pass everything else on."""
        arguments = kwargs or {}
        # As modules of torch and timm call it: weights and bias by position. Any other call keeps autocast's types.
        if func is torch.conv2d and len(args) >= 3 and torch.is_autocast_enabled("cpu"):
            input_NCHW, weight, bias, *others = args
            groups = others[3] if len(others) > 3 else arguments.get("groups", 1)
            if groups > 1 and groups == input_NCHW.shape[1]:
                with torch.autocast("cpu", enabled=False):
                    return func(input_NCHW.float(), weight.float(), _float(bias), *others, **arguments)
        return func(*args, **arguments)


def _float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()
