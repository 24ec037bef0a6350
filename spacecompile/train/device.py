"""Where the training runs and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from spacecompile.errors import MissingPartError, UsageError
from spacecompile.train.cpu_kernels import DepthwiseInFloat32


@dataclass(frozen=True, kw_only=True)
class DevicePlan:
    """Chosen once per run.

    Attributes:
        device: Where network and batches live.
        autocast_dtype: Data type of mixed precision; None for float32.
        name: For people and for the records, for example `cpu (avx512_bf16)`.
    """

    device: torch.device
    autocast_dtype: torch.dtype | None
    name: str

    @property
    def scales_loss(self) -> bool:
        """Whether gradients would underflow without loss scaling: float16 only."""
        return self.autocast_dtype is torch.float16

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Context of the forward pass."""
        is_mixed = self.autocast_dtype is not None
        with ExitStack() as stack:
            stack.enter_context(
                torch.autocast(self.device.type, dtype=self.autocast_dtype or torch.bfloat16, enabled=is_mixed)
            )
            if is_mixed and self.device.type == "cpu":
                stack.enter_context(DepthwiseInFloat32())
            yield


def plan_device(device: str, *, amp: bool) -> DevicePlan:
    """Choose device and precision.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        amp: Whether mixed precision is wanted where the device has it.

    Raises:
        UsageError: If the name is not a device.
        MissingPartError: If CUDA was named and is not there.
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and (kind != "cuda" or not index.isdigit())):
        raise UsageError(f"device is {device!r}. Give --device auto, cpu, cuda or cuda:N.")
    gpus = torch.cuda.device_count() if kind != "cpu" and torch.cuda.is_available() else 0
    if kind == "cuda" and gpus <= int(index or 0):
        raise MissingPartError(
            f"device {device!r} was asked for and torch {torch.__version__} sees {gpus} CUDA devices. Install a CUDA "
            "build of torch and a driver (`nvidia-smi` must work), or use --device cpu."
        )
    return _cuda_plan(int(index or 0), amp=amp) if gpus else _cpu_plan(amp=amp)


def _cuda_plan(index: int, *, amp: bool) -> DevicePlan:
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return DevicePlan(
        device=torch.device("cuda", index),
        autocast_dtype=dtype if amp else None,
        name=f"cuda:{index} ({torch.cuda.get_device_name(index)})",
    )


def _cpu_plan(*, amp: bool) -> DevicePlan:
    # Without these instructions bfloat16 is emulated and slower than float32. torch has no public name for them.
    unit = "amx" if torch.cpu._is_amx_tile_supported() else ""
    unit = unit or ("avx512_bf16" if torch.cpu._is_avx512_bf16_supported() else "")
    return DevicePlan(
        device=torch.device("cpu"),
        autocast_dtype=torch.bfloat16 if amp and unit else None,
        name=f"cpu ({unit})" if unit else "cpu",
    )
