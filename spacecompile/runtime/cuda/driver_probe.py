"""Asks NVIDIA's driver for its first GPU, in a process of its own: a broken driver can crash whoever calls it.

`driver` starts it. Beside the standard library it imports nothing but `child_process`.
"""

from __future__ import annotations

import ctypes

from spacecompile.child_process import report

_LIBRARY = "libcuda.so.1"
# CUdevice_attribute in cuda.h.
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 256


def main(_: list[str]) -> None:
    """Report the facts of the first GPU, or `problem`: why there is none, as the start of a sentence."""
    try:
        report(_facts())
    except OSError as error:
        report({"problem": f"NVIDIA's driver is not installed ({error})"})


def _facts() -> dict[str, str]:
    """Fields of `driver.GpuFacts` as the driver tells them, or `problem`."""
    cuda = ctypes.CDLL(_LIBRARY)
    code = cuda.cuInit(0)
    if code:
        return {"problem": f"NVIDIA's driver finds no GPU that it can use (cuInit gives {code})"}
    version, count, major, minor = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(_NAME_BYTES)
    # The first GPU that CUDA_VISIBLE_DEVICES leaves is the one that TensorRT builds for.
    calls = (
        ("cuDriverGetVersion", ctypes.byref(version)),
        ("cuDeviceGetCount", ctypes.byref(count)),
        ("cuDeviceGetName", name, _NAME_BYTES, 0),
        ("cuDeviceGetAttribute", ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, 0),
        ("cuDeviceGetAttribute", ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, 0),
    )
    for function, *arguments in calls:
        code = getattr(cuda, str(function))(*arguments)
        if code:
            return {"problem": f"NVIDIA's driver does not answer ({function} gives {code})"}
        if function == "cuDeviceGetCount" and not count.value:
            return {"problem": "NVIDIA's driver is there, but no GPU"}
    return {
        "gpu": name.value.decode(errors="replace"),
        "compute_capability": f"{major.value}.{minor.value}",
        "cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
    }
