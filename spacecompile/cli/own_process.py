"""What PyTorch needs of the process that it runs in: how its threads wait, and how its memory is handed out.

By default OpenMP's threads spin between two operations. On a quiet machine that is the faster way: waiting passively,
PyTorch eager takes 1.12 times as long (median of three interleaved pairs of runs, 2 cores). Beside another busy process
it is a disaster: 5.9 s instead of 0.44 s per frame. So commands that only need PyTorch's answers wait passively, and
`bench`, which needs its speed, leaves PyTorch as a user finds it.

Every training step allocates and frees hundreds of tensors of megabytes. glibc gives such memory back to the kernel at
once and takes it anew, page by page, each filled with zeros; `train` tells it to keep the memory, in huge pages.
"""

from __future__ import annotations

import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from spacecompile.cli import console
from spacecompile.errors import EXIT_INTERRUPTED, EXIT_UNEXPECTED, StepFailedError

_TUNABLES = {
    "hugetlb": 1,  # transparent huge pages, glibc 2.35 and newer; older ones pass over it
    "mmap_max": 0,  # everything from the heap, which is kept
    "trim_threshold": 1 << 36,
}


def wait_passively() -> None:
    """Make PyTorch's idle threads sleep, unless the user chose otherwise. Only counts before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_freed_memory() -> None:
    """Begin this process anew with a malloc that keeps what is freed, unless the user tuned it or it is not glibc's.

    glibc reads its tunables when a process starts, so they can't be set from within.
    """
    if "GLIBC_TUNABLES" in os.environ or platform.libc_ver()[0] != "glibc":
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{name}={value}" for name, value in _TUNABLES.items())
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run_in_own_process(arguments: Sequence[str]) -> None:
    """Run a command that waits passively without making PyTorch slower in this process.

    Args:
        arguments: Words of the command line after `spacecompile`.

    Raises:
        KeyboardInterrupt: If the command was interrupted.
        StepFailedError: If the command failed, with its exit code; it said itself why.
    """
    quiet = ["--quiet"] if console.stderr.quiet else []
    code = subprocess.run([sys.executable, "-m", "spacecompile", *quiet, *arguments], check=False).returncode
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code < 0:
        name = signal.Signals(-code).name
        raise StepFailedError(f"`spacecompile {shlex.join(arguments)}` was killed by {name}.", EXIT_UNEXPECTED)
    if code:
        raise StepFailedError(f"`spacecompile {shlex.join(arguments)}` failed; its reason stands above.", code)
