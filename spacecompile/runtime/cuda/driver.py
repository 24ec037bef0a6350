"""Whether there is a GPU to build for, asked in a way that can't take this process down."""

from __future__ import annotations

import re
from pathlib import Path

from spacecompile.child_process import run_child
from spacecompile.record import Record

_LIMIT_S = 60.0
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


class GpuFacts(Record):
    """The GPU that engines are built for.

    Attributes:
        gpu: Name of the GPU.
        compute_capability: `major.minor`, for example 9.0.
        cuda: Newest CUDA version that the driver runs.
        driver: Version of the driver; None when the kernel does not tell.
    """

    gpu: str
    compute_capability: str
    cuda: str
    driver: str | None = None


class CudaProbe(Record):
    """What the driver said of its GPUs.

    Attributes:
        device: The first GPU, or None.
        problem: Why there is none, as the start of a sentence; empty otherwise.
    """

    device: GpuFacts | None
    problem: str = ""


def probe_cuda() -> CudaProbe:
    """Ask the driver for its first GPU, in a process of its own."""
    # Isolated: nothing that PYTHONPATH names may shadow the standard library.
    answer = run_child("spacecompile.runtime.cuda.driver_probe", limit_s=_LIMIT_S, isolated=True)
    if isinstance(answer, str):
        return CudaProbe(
            device=None, problem=f"NVIDIA's driver crashes or hangs when it is asked for a GPU: the process {answer}"
        )
    if "problem" in answer:
        return CudaProbe(device=None, problem=answer["problem"])
    return CudaProbe(device=GpuFacts(**answer, driver=_driver_version()))


def _driver_version() -> str | None:
    """Version of the driver, as its kernel module tells it."""
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", _KERNEL_MODULE.read_text())
    except OSError:
        return None
    return found.group() if found else None
