"""Mixed precision on a CPU: depthwise convolutions in float32, all others in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from spacecompile.train.cpu_kernels import DepthwiseInFloat32


@pytest.mark.parametrize(
    ("convolution", "dtype"),
    [
        pytest.param(nn.Conv2d(8, 8, 5, padding=2, groups=8), torch.float32, id="depthwise"),
        pytest.param(nn.Conv2d(8, 16, 3, stride=2, groups=8, bias=False), torch.float32, id="two-per-channel"),
        pytest.param(nn.Conv2d(8, 8, 3, groups=4), torch.bfloat16, id="grouped"),
        pytest.param(nn.Conv2d(8, 4, 1), torch.bfloat16, id="pointwise"),
    ],
)
def test_only_depthwise_convolutions_leave_half_precision(convolution: nn.Conv2d, dtype: torch.dtype) -> None:
    input_NCHW = torch.randn(2, 8, 12, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16), DepthwiseInFloat32():
        output = convolution(input_NCHW.bfloat16())
        output.float().sum().backward()  # type: ignore[no-untyped-call]
    assert output.dtype is dtype
    assert convolution.weight.grad is not None
    exact = convolution(input_NCHW.bfloat16().float())
    torch.testing.assert_close(output.float(), exact, rtol=0, atol=1e-6 if dtype is torch.float32 else 2e-2)


def test_without_autocast_nothing_changes() -> None:
    convolution = nn.Conv2d(4, 4, 3, groups=4).double()
    input_NCHW = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    with DepthwiseInFloat32():
        assert convolution(input_NCHW).dtype is torch.float64


def test_calls_by_keyword_keep_autocast_s_types() -> None:
    input_NCHW, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16), DepthwiseInFloat32():
        assert torch.conv2d(input_NCHW, weight=weight, bias=None, groups=4).dtype is torch.bfloat16
