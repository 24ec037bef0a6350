"""How PyTorch's threads wait for each other.

By default OpenMP's threads spin between two operations. On a quiet machine that is the faster way: waiting passively,
PyTorch eager takes 1.12 times as long (median of three interleaved pairs of runs, 2 cores). Beside another busy process
it is a disaster: 5.9 s instead of 0.44 s per frame. So commands that only need PyTorch's answers wait passively, and
`bench`, which needs its speed, leaves PyTorch as a user finds it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from spacecompile.cli import console
from spacecompile.errors import EXIT_INTERRUPTED, EXIT_UNEXPECTED, StepFailedError


def wait_passively() -> None:
    """Make PyTorch's idle threads sleep, unless the user chose otherwise. Only counts before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run_in_own_process(arguments: Sequence[str]) -> None:
    """Run a command that waits passively without making PyTorch slower in this process.

    Args:
        arguments: Of `spacecompile`.

    Raises:
        KeyboardInterrupt: If the command was interrupted.
        StepFailedError: With the command's exit code if it failed; it said itself why.
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
