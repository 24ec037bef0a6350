"""Which batch norms can be folded, judged by what the network does and not by how its modules are called."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Conv2dSame, StdConv2d
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from spacecompile.export.rewrite.dataflow import foldable_pairs


class Toy(nn.Module):
    """A convolution and a batch norm, wired by a subclass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.double().eval()

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        result_NCHW = self.wired(input_NCHW)
        return result_NCHW.mean(dim=(2, 3)), result_NCHW

    def wired(self, input_NCHW: Tensor) -> Tensor:
        return self.norm(self.conv(input_NCHW))


class ReadTwice(Toy):
    def wired(self, input_NCHW: Tensor) -> Tensor:
        conv_NCHW = self.conv(input_NCHW)
        return self.norm(conv_NCHW) + conv_NCHW


class ReadThroughView(Toy):
    def wired(self, input_NCHW: Tensor) -> Tensor:
        conv_NCHW = self.conv(input_NCHW)
        return self.norm(conv_NCHW) + conv_NCHW.flatten(2).mean()


class Returned(Toy):
    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        conv_NCHW = self.conv(input_NCHW)
        return self.norm(conv_NCHW).mean(dim=(2, 3)), conv_NCHW


class SharedConvolution(Toy):
    def wired(self, input_NCHW: Tensor) -> Tensor:
        return self.norm(self.conv(input_NCHW)) + self.conv(2 * input_NCHW)


class SharedNorm(Toy):
    def wired(self, input_NCHW: Tensor) -> Tensor:
        return self.norm(self.conv(input_NCHW)) + self.norm(input_NCHW.mean(dim=1, keepdim=True).repeat(1, 4, 1, 1))


class NormAfterActivation(Toy):
    def wired(self, input_NCHW: Tensor) -> Tensor:
        return self.norm(torch.relu(self.conv(input_NCHW)))


class NormBeforeConvolution(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3).double().eval()

    def wired(self, input_NCHW: Tensor) -> Tensor:
        return self.conv(self.norm(input_NCHW))


class Reshaped(nn.Conv2d):
    """Returns what its convolution computed, changed."""

    def forward(self, input_NCHW: Tensor) -> Tensor:
        return super().forward(input_NCHW).abs()


def _with_convolution(convolution: nn.Module) -> Toy:
    toy = Toy()
    toy.conv = convolution.double().eval()
    return toy


def _without_statistics() -> Toy:
    toy = Toy()
    toy.norm = nn.BatchNorm2d(4, track_running_stats=False).double().eval()
    return toy


@pytest.mark.parametrize(
    ("network", "foldable"),
    [
        pytest.param(Toy(), True, id="convolution-then-norm"),
        pytest.param(_with_convolution(nn.Conv2d(3, 4, 3, bias=False)), True, id="without-bias"),
        pytest.param(_with_convolution(Conv2dSame(3, 4, 3, stride=2)), True, id="dynamic-padding"),
        pytest.param(_with_convolution(nn.ConvTranspose2d(3, 4, 2, stride=2)), True, id="transposed"),
        pytest.param(_with_convolution(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity())), True, id="nested"),
        pytest.param(_with_convolution(StdConv2d(3, 4, 3)), False, id="standardised-weights"),
        pytest.param(_with_convolution(parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), False, id="parametrised"),
        pytest.param(_with_convolution(Reshaped(3, 4, 3)), False, id="changed-inside-the-module"),
        pytest.param(_without_statistics(), False, id="norm-without-statistics"),
        pytest.param(ReadTwice(), False, id="read-twice"),
        pytest.param(ReadThroughView(), False, id="read-through-a-view"),
        pytest.param(Returned(), False, id="returned"),
        pytest.param(SharedConvolution(), False, id="shared-convolution"),
        pytest.param(SharedNorm(), False, id="shared-norm"),
        pytest.param(NormAfterActivation(), False, id="norm-after-activation"),
        pytest.param(NormBeforeConvolution(), False, id="norm-before-convolution"),
    ],
)
def test_only_a_norm_that_alone_reads_a_convolution_is_foldable(network: Toy, foldable: bool) -> None:
    pairs = foldable_pairs(network)
    assert bool(pairs) == foldable
    assert all(norm is network.norm for _, norm in pairs)


def test_looking_leaves_no_hook_behind() -> None:
    toy = Toy()
    foldable_pairs(toy)
    assert not toy.conv._forward_hooks
    assert not toy.norm._forward_pre_hooks
