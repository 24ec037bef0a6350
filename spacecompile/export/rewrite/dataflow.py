"""Which batch norm reads which convolution, observed while the network runs.

Module names and nesting differ between every encoder of smp and timm, and neither says who else reads a tensor. One
forward pass does: a batch norm can be folded into a convolution whose output goes into it and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spacecompile.export.rewrite.proof import PassProofSettings, proof_input

Convolution = nn.Conv2d | nn.ConvTranspose2d

_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.conv2d.default)


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts the operators that read each tensor, and notes the weight of the convolution that made it, by identity."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.reads: Counter[int] = Counter()
        self.weight: dict[int, Tensor] = {}
        # Python gives the identity of a freed tensor to the next one.
        self._alive: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.reads[id(leaf)] += 1
                self._alive.append(leaf)
        output = func(*args, **(kwargs or {}))
        if func in _CONVOLUTIONS:
            self.weight[id(output)] = args[1]
            self._alive.append(output)
        return output


@dataclass(kw_only=True)
class _Calls:
    """Modules in the order of their calls: convolutions with what they return, batch norms with what they read."""

    convolutions: list[tuple[Convolution, Tensor]] = field(default_factory=list)
    norms: list[tuple[nn.BatchNorm2d, Tensor]] = field(default_factory=list)


@contextmanager
def _recorded(network: nn.Module) -> Iterator[_Calls]:
    calls = _Calls()

    def after_convolution(module: Convolution, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.convolutions.append((module, output))

    def before_norm(module: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        calls.norms.append((module, inputs[0]))

    handles = []
    for module in network.modules():
        if isinstance(module, Convolution):
            handles.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def foldable_pairs(network: nn.Module) -> list[tuple[Convolution, nn.BatchNorm2d]]:
    """Every convolution whose output one batch norm reads and nothing else, with that batch norm.

    Args:
        network: Network in float64 and evaluation mode.

    Returns:
        Pairs in the order of the forward pass. Left out are modules that are called more than once, and convolutions
        that compute with anything but their own parameter, such as standardised weights.
    """
    input_NCHW = proof_input(network, PassProofSettings(batch=1))
    with _recorded(network) as calls, _Reads() as operators:
        outputs = network(input_NCHW)
    operators.reads.update(id(output) for output in outputs)
    call_count = Counter(module for module, _ in (*calls.convolutions, *calls.norms))
    linear = {
        id(output): convolution
        for convolution, output in calls.convolutions
        # From `_parameters`: a parametrised layer makes its `weight` anew whenever it is asked for.
        if operators.weight.get(id(output)) is convolution._parameters.get("weight") and call_count[convolution] == 1
    }
    return [
        (linear[id(tensor)], norm)
        for norm, tensor in calls.norms
        if id(tensor) in linear and operators.reads[id(tensor)] == 1 and call_count[norm] == 1
    ]
