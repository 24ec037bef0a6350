"""The scale of normalisation, moved into the first convolution.

Layout legend: C channels (RGB).
"""

from __future__ import annotations

import torch
from msgspec.structs import replace
from torch import nn

from spacecompile.export.rewrite.base import Pass
from spacecompile.export.rewrite.channels import Call, Flow, flow_of
from spacecompile.export.sealed.frame_to_input import UNIT_STD, is_whole_ratio
from spacecompile.network.model import MultiTaskNetwork


class FoldInputScale(Pass):
    """Let the network take frames of 0 to 255 with only the mean subtracted.

    The mean can't follow: the first convolution pads with zeros, which stand for the mean. The network's spec says what
    it takes from then on, a standard deviation of 1/255, and both the proof and the sealed graph keep to it. Where the
    frame is a whole multiple of the input, one convolution pools and scales at once: nothing is to be gained there.
    """

    name = "fold_input_scale"

    def requires(self, network: MultiTaskNetwork) -> bool:
        """Whether the sealed graph scales in a step of its own, and one convolution alone reads the input."""
        spec = network.spec
        return spec.std != UNIT_STD and not is_whole_ratio(spec) and _stem(network) is not None

    @torch.no_grad()
    def apply(self, network: MultiTaskNetwork) -> MultiTaskNetwork:
        """Fold it."""
        stem = _stem(network)
        assert stem is not None  # requires
        scale_C = torch.tensor([1 / (255 * std) for std in network.spec.std], dtype=stem.weight.dtype)
        stem.weight = nn.Parameter(stem.weight * scale_C.to(stem.weight.device)[:, None, None])
        network.spec = replace(network.spec, std=UNIT_STD)
        return network


def _stem(network: MultiTaskNetwork) -> nn.Conv2d | None:
    """The convolution that alone reads the input, behind zero padding or not; None where there is none."""
    flow = flow_of(network)
    reader = _only_reader(flow, flow.input)
    while reader is not None and _pads_zeros(reader):
        reader = _only_reader(flow, reader.outputs[0])
    if reader is None:
        return None
    if reader.layer is not None:
        weight = reader.layer.weight if flow.num_calls[reader.layer] == 1 else None
    else:
        # A subclass of Conv2d is no layer to the flow: its convolution shows as an operator.
        is_own = reader.operator is torch.ops.aten.convolution.default and len(flow.readers[id(reader.args[1])]) == 1
        weight = reader.args[1] if is_own else None
    stems = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.weight is weight]
    return stems[0] if len(stems) == 1 and stems[0].groups == 1 else None


def _only_reader(flow: Flow, tensor: torch.Tensor) -> Call | None:
    readers = flow.readers[id(tensor)]
    return readers[0] if len(readers) == 1 else None


def _pads_zeros(call: Call) -> bool:
    if call.operator is not torch.ops.aten.constant_pad_nd.default:
        return False
    return len(call.args) < 3 or call.args[2] == 0
