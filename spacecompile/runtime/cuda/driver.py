"""Whether there is a GPU to build for, asked in a way that can't take this process down."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec

from spacecompile.record import Record

_PROBE = Path(__file__).with_name("driver_probe.py")
_PROBE_TIMEOUT_S = 60.0
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


class GpuFacts(Record):
    """The GPU that engines are built for.

    Attributes:
        gpu: Its name.
        compute_capability: `major.minor`, for example 9.0.
        cuda: Newest CUDA version that the driver runs.
        driver: Version of the driver; None when the kernel does not tell.
    """

    gpu: str
    compute_capability: str
    cuda: str
    driver: str | None = None


class CudaProbe(Record):
    """What was found.

    Attributes:
        device: The first GPU, or None.
        problem: Why there is none, as the start of a sentence; empty otherwise.
    """

    device: GpuFacts | None
    problem: str = ""


class _Answer(msgspec.Struct):
    problem: str = ""
    gpu: str = ""
    compute_capability: str = ""
    cuda: str = ""


def probe_cuda() -> CudaProbe:
    """Ask the driver for its first GPU, in a process of its own."""
    try:
        # -I: neither the folder of the script nor PYTHONPATH may shadow the standard library.
        done = subprocess.run(
            [sys.executable, "-I", str(_PROBE)], capture_output=True, timeout=_PROBE_TIMEOUT_S, check=True
        )
        answer = msgspec.json.decode(done.stdout, type=_Answer)
    except subprocess.CalledProcessError as error:
        return CudaProbe(device=None, problem=f"NVIDIA's driver crashes when it is asked for a GPU ({error})")
    except subprocess.TimeoutExpired:
        return CudaProbe(device=None, problem=f"NVIDIA's driver did not answer within {_PROBE_TIMEOUT_S:.0f} s")
    except (OSError, msgspec.MsgspecError) as error:
        return CudaProbe(device=None, problem=f"NVIDIA's driver could not be asked for a GPU ({error})")
    if answer.problem:
        return CudaProbe(device=None, problem=answer.problem)
    device = GpuFacts(
        gpu=answer.gpu,
        compute_capability=answer.compute_capability,
        cuda=answer.cuda,
        driver=_driver_version(),
    )
    return CudaProbe(device=device)


def _driver_version() -> str | None:
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", _KERNEL_MODULE.read_text())
    except OSError:
        return None
    return found.group() if found else None
