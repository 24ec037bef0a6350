"""How many threads this process may use at once: physical cores, affinity and the container's quota."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

_CPU_FOLDER = Path("/sys/devices/system/cpu")
# The quota of a container as control groups v2 show it: "<quota> <period>" in microseconds, or "max <period>".
_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(*, cpu_folder: Path = _CPU_FOLDER, quota_file: Path = _QUOTA_FILE) -> int:
    """Number of physical cores that this process may run on.

    Hyper-threads of one core count once: they share the multiply units that a network keeps busy, and a spinning
    sibling slows its neighbour. More threads than the container's quota would be throttled in the middle of a frame.

    Args:
        cpu_folder: Folder in which the kernel describes the cores.
        quota_file: File in which the kernel shows the container's quota.

    Returns:
        A number of at least 1.
    """
    cpus = _affinity()
    cores = {_core_of(cpu, cpu_folder) for cpu in cpus}
    return max(1, min(len(cores), _quota_cores(quota_file, default=len(cpus))))


def usable_processors(*, quota_file: Path = _QUOTA_FILE) -> int:
    """Number of logical processors that this process may keep busy, for work that gains from hyper-threads.

    Args:
        quota_file: File in which the kernel shows the container's quota.

    Returns:
        A number of at least 1.
    """
    num_processors = len(_affinity())
    return max(1, min(num_processors, _quota_cores(quota_file, default=num_processors)))


def _affinity() -> Collection[int]:
    # Linux only; elsewhere every processor may be used.
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _core_of(cpu: int, cpu_folder: Path) -> str:
    """The siblings that share the core of one processor: the same text for each of them."""
    try:
        return (cpu_folder / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return f"cpu{cpu}"


def _quota_cores(quota_file: Path, *, default: int) -> int:
    quota = container_quota(quota_file=quota_file)
    return default if quota is None else int(quota)


def container_quota(*, quota_file: Path = _QUOTA_FILE) -> float | None:
    """Processors' worth of time that the container may use per unit of time; None where there is no limit.

    Args:
        quota_file: File in which the kernel shows the quota.
    """
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
