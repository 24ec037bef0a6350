"""Batch norm over all processes: with one process it is torch's own, whatever layer calls it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from spacecompile.train.sync_norm import SharedBatchNorm


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store: Path = tmp_path_factory.mktemp("store") / "file"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(nn.BatchNorm2d(5), id="torch"),
        pytest.param(nn.BatchNorm2d(5, affine=False), id="without scale and shift"),
        pytest.param(nn.BatchNorm2d(5, track_running_stats=False), id="without running statistics"),
        pytest.param(BatchNormAct2d(5), id="timm, with activation"),
    ],
)
def test_values_gradients_and_statistics_are_those_of_batch_norm(layer: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = deepcopy(layer).train(), deepcopy(layer).train()
    input_NCHW = (torch.randn(4, 5, 6, 7, generator=generator) * 3 + 100).requires_grad_()
    weights_NCHW = torch.randn(4, 5, 6, 7, generator=generator)
    with SharedBatchNorm():
        shared = ours(input_NCHW)
    plain = theirs(input_NCHW)
    assert torch.allclose(shared, plain, atol=1e-4)
    gradients = [
        torch.autograd.grad((output * weights_NCHW).sum(), [input_NCHW, *module.parameters()])
        for output, module in ((shared, ours), (plain, theirs))
    ]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-3), (one - other).abs().max()
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=1e-5)


def test_evaluation_mode_is_left_alone() -> None:
    layer = nn.BatchNorm2d(3).eval()
    input_NCHW = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with SharedBatchNorm():
        assert torch.equal(layer(input_NCHW), nn.BatchNorm2d(3).eval()(input_NCHW))
    assert not layer.running_mean.any()  # type: ignore[union-attr]
