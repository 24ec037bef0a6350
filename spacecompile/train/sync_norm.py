"""Batch norm over the batches of all processes, on any device.

torch's own `SyncBatchNorm` runs on GPUs only, and its conversion drops the activation of timm's fused norm layers.
Here no module is replaced: the function that all of them call is, within a context.

Layout legend: N frames of this process, C channels, further axes are pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class SharedBatchNorm(TorchFunctionMode):
    """Context within which `batch_norm` in training mode uses the statistics of all processes' frames."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Take over batch norm; pass everything else on."""
        arguments = kwargs or {}
        if func is functional.batch_norm and arguments.get("training"):
            return _batch_norm(*args, **arguments)
        return func(*args, **arguments)


def _batch_norm(
    input_NC: Tensor,
    running_mean_C: Tensor | None,
    running_var_C: Tensor | None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """As `torch.nn.functional.batch_norm`, in float32, over the frames of all processes."""
    del training
    axes = [axis for axis in range(input_NC.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(input_NC.ndim)]
    values = input_NC.float()
    count = values.numel() // values.shape[1] * distributed.get_world_size()
    mean_C = _summed(values.sum(axes)) / count
    centred = values - mean_C.reshape(shape)
    var_C = _summed(centred.square().sum(axes)) / count
    with torch.no_grad():
        if running_mean_C is not None and running_var_C is not None:
            running_mean_C.lerp_(mean_C.to(running_mean_C.dtype), momentum)
            running_var_C.lerp_((var_C * (count / max(1, count - 1))).to(running_var_C.dtype), momentum)
    normed: Tensor = centred * (var_C + eps).rsqrt().reshape(shape)
    if weight is not None:
        normed = normed * weight.reshape(shape)
    if bias is not None:
        normed = normed + bias.reshape(shape)
    return normed.to(input_NC.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """All processes' sum. Each process's value is in every process's sum, so gradients are summed as well.

    torch's own differentiable collectives are deprecated or private.
    """

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:  # noqa: ARG004 - the signature is torch's
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        (gradient,) = gradients
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


def _summed(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)
    return total
