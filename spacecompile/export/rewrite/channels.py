"""Who reads the channels of a tensor, followed through everything that leaves a value per channel as it is.

An affine map per channel, x -> g x + t, commutes with every operator that moves values or averages them within their
channel: reshapes, permutations, pooling without padding, bilinear resizing. Whether a given call is one is found by
running it on a tensor that holds one random label per channel: it is if every label arrives as it was. So the maps of
a layer norm can be folded into the layers behind, and a layer says itself along which axis it sums over channels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from spacecompile.export.rewrite.proof import PassProofSettings, proof_input

Layer = nn.Linear | nn.Conv2d

_aten = torch.ops.aten
_CHANNELWISE = frozenset(
    (
        *(_aten.view, _aten._unsafe_view, _aten.reshape, _aten.permute, _aten.transpose, _aten.t, _aten.unsqueeze),
        *(_aten.squeeze, _aten.flatten, _aten.clone, _aten.contiguous, _aten.alias, _aten.detach, _aten.expand),
        *(_aten.roll, _aten.slice, _aten.select, _aten.flip, _aten.mean, _aten.avg_pool2d, _aten._adaptive_avg_pool2d),
        *(_aten.upsample_bilinear2d, _aten.upsample_nearest2d, _aten.split, _aten.split_with_sizes, _aten.unbind),
    )
)
"""Each output is a value of the input or a weighted sum of some; the labels tell whether the weights fit."""


@dataclass(eq=False)
class Call:
    """One operator as it ran, or one whole layer.

    Attributes:
        operator: Operator that ran; None for a layer.
        layer: Layer that was called; None for an operator outside of layers.
        args, kwargs: Arguments, their tensors as they were.
        outputs: Tensors that the call returned.
    """

    operator: Any
    layer: Layer | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor]


@dataclass
class Flow:
    """One forward pass. Every tensor of it stays alive, so that no identity is given out twice.

    Attributes:
        readers: Calls that read a tensor, by the tensor's identity.
        norms: Calls of layer norm.
        num_calls: Number of calls of each layer.
        returned: Identities of the network's outputs.
        input: Input of the network.
    """

    input: Tensor
    readers: defaultdict[int, list[Call]] = field(default_factory=lambda: defaultdict(list))
    norms: list[Call] = field(default_factory=list)
    num_calls: Counter[nn.Module] = field(default_factory=Counter)
    returned: set[int] = field(default_factory=set)

    def add(self, call: Call) -> None:
        """Note who reads the tensors that a call was given."""
        for tensor in _tensors((call.args, call.kwargs)):
            self.readers[id(tensor)].append(call)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Notes every operator outside of layers."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.flow = flow
        self.layer_depth = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        moves_nothing = func is _aten.as_strided_.default and _keeps_places(*args)
        result = func(*args, **(kwargs or {}))
        # Inside a layer its own call stands for all its operators.
        if self.layer_depth == 0 and not moves_nothing:
            call = Call(func, None, args, kwargs or {}, _tensors(result))
            self.flow.add(call)
            if func is _aten.native_layer_norm.default:
                self.flow.norms.append(call)
        return result


def _keeps_places(tensor: Tensor, size: list[int], strides: list[int], *_: Any) -> bool:
    """Whether new strides differ for axes of length one only: torch's pooling to one pixel ends so."""
    same = zip(tensor.stride(), strides, size, strict=False)
    return list(tensor.shape) == list(size) and all(old == new or length == 1 for old, new, length in same)


@torch.no_grad()
def flow_of(network: nn.Module) -> Flow:
    """Watch the network run on the proof's input.

    Args:
        network: Network in float64 and evaluation mode.
    """
    flow = Flow(proof_input(network, PassProofSettings(batch=1)))
    operators = _Operators(flow)
    with _layers_watched(network, operators), operators:
        outputs = network(flow.input)
    flow.returned = {id(output) for output in outputs}
    return flow


@contextmanager
def _layers_watched(network: nn.Module, operators: _Operators) -> Iterator[None]:
    def enter(_layer: Layer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        operators.layer_depth += 1

    def leave(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        operators.layer_depth -= 1
        operators.flow.num_calls[layer] += 1
        operators.flow.add(Call(None, layer, args, kwargs, [output]))

    # A subclass may do anything in its forward, and a parametrised layer is one.
    layers = [module for module in network.modules() if type(module) in (nn.Linear, nn.Conv2d)]
    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(leave, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layers_that_alone_read(flow: Flow, tensor: Tensor) -> list[Layer]:
    """The layers that read a tensor whose channels are its last axis.

    Args:
        flow: Forward pass that the tensor is part of.
        tensor: Tensor [..., C].

    Returns:
        Layers that sum over exactly its channels, each called once; empty if anything else reads the tensor too, or
        something that is made of it channel by channel.
    """
    generator = torch.Generator().manual_seed(0)
    # Random, so that neither a permutation nor a mixture of channels can pass for the identity.
    label_C = torch.randn(tensor.shape[-1], generator=generator, dtype=tensor.dtype).to(tensor.device)
    found: list[Layer] = []
    pending = [(tensor, label_C.expand_as(tensor))]
    while pending:
        current, labels = pending.pop()
        calls = flow.readers[id(current)]
        if id(current) in flow.returned:
            return []
        for call in calls:
            if call.layer is not None:
                if not _is_own(flow, call.layer) or not _sums_over(call.layer, labels, label_C):
                    return []
                found.append(call.layer)
            elif (labelled := _labelled(call, current, labels)) is not None:
                pending += zip(call.outputs, labelled, strict=True)
            else:
                return []
    return found


def _is_own(flow: Flow, layer: Layer) -> bool:
    """Whether the layer's weight serves one call of the layer and nothing else."""
    return flow.num_calls[layer] == 1 and not flow.readers[id(layer.weight)]


def _labelled(call: Call, tensor: Tensor, labels: Tensor) -> list[Tensor] | None:
    """The call's outputs for labels in the place of a tensor; None if it is not one that keeps them."""
    if call.operator.overloadpacket not in _CHANNELWISE or call.operator._schema.is_mutable:
        return None
    args, kwargs = tree_map_only(Tensor, lambda leaf: labels if leaf is tensor else leaf, (call.args, call.kwargs))
    return _tensors(call.operator(*args, **kwargs))


def _sums_over(layer: Layer, labels: Tensor, label_C: Tensor) -> bool:
    """Whether the axis over which the layer sums holds the labels in order, at every position, and no padding."""
    axis = 1 if isinstance(layer, nn.Conv2d) else -1
    if isinstance(layer, nn.Conv2d) and (layer.padding not in ((0, 0), "valid") or layer.groups != 1):
        return False
    if labels.ndim < 2 or labels.shape[axis] != label_C.numel():
        return False
    # A mean within one channel leaves rounding on its label.
    return torch.allclose(labels.movedim(axis, -1), label_C, rtol=1e-12, atol=1e-12)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
