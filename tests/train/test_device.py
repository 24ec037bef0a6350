"""Device names and what each may compute in."""

from __future__ import annotations

import pytest
import torch

from spacecompile.errors import MissingPartError, UsageError
from spacecompile.train.device import plan_device


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:0", "", "cuda:-1"])
def test_names_that_are_no_device_are_refused(device: str) -> None:
    with pytest.raises(UsageError, match="--device auto, cpu, cuda or cuda:N"):
        plan_device(device, amp=True)


def test_a_named_gpu_that_is_not_there_is_an_error_and_never_a_silent_cpu() -> None:
    with pytest.raises(MissingPartError, match="--device cpu"):
        plan_device(f"cuda:{torch.cuda.device_count()}", amp=True)


def test_without_mixed_precision_everything_is_float32() -> None:
    plan = plan_device("cpu", amp=False)
    assert plan.autocast_dtype is None
    with plan.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_mixed_precision_on_a_cpu_is_bfloat16_only_where_it_is_native() -> None:
    plan = plan_device("cpu", amp=True)
    assert plan.device.type == "cpu"
    assert not plan.scales_loss
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    with plan.autocast():
        dtype = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    assert dtype == (torch.bfloat16 if native else torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_used_when_named() -> None:
    plan = plan_device("cuda", amp=True)
    assert plan.device == torch.device("cuda", 0)
    assert plan.autocast_dtype in (torch.bfloat16, torch.float16)
