"""Asks NVIDIA's driver what it is, and writes one JSON object to stdout.

Run as a script by `driver.py`, in a process of its own: a broken driver can crash whoever calls it. So it imports
nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import json
import sys

_LIBRARY = "libcuda.so.1"
# CUdevice_attribute in cuda.h.
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 256


def main() -> None:
    """Write `{"problem": ...}`, or the facts of the first GPU."""
    try:
        facts = _facts()
    except OSError as error:
        facts = {"problem": f"NVIDIA's driver is not installed ({error})"}
    sys.stdout.write(json.dumps(facts))


def _facts() -> dict[str, str]:
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


if __name__ == "__main__":
    main()
