"""What this CPU's instruction set has, by the kernel's names."""

from __future__ import annotations

from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_LINES = ("flags", "Features")  # x86 and ARM


def cpu_features(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Names such as `avx512f` and `amx_bf16`; empty where the kernel does not list them.

    Args:
        cpu_info: File in which the kernel lists the features core by core; the first core counts.
    """
    try:
        with cpu_info.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, words = line.partition(":")
                if name.strip() in _LINES:
                    return frozenset(words.split())
    except OSError:
        pass
    return frozenset()
