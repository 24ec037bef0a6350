"""Trying a third-party part without going down with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from spacecompile.machine.probe_child import answer_from_output
from spacecompile.record import Record

PROBE_LIMIT_S = 180.0
"""Importing the compile extra took 30 s on two busy cores (11 s of processor time); a cold disk takes longer."""

# This very spacecompile, be it installed or a clone; beyond it nothing in its folder or in the current one (-P) may
# pass for a library.
_CODE = (
    "import sys; sys.path.insert(0, {root!r}); import spacecompile; del sys.path[0]; "
    "from spacecompile.machine.probe_child import main; main(sys.argv[1:])"
)


class ProbeResult(Record):
    """What came of a probe.

    Attributes:
        found: What works, for a reader; empty where it doesn't.
        problem: Why it doesn't; empty where it does.
    """

    found: str = ""
    problem: str = ""


def run_probe(arguments: Sequence[str], *, limit_s: float = PROBE_LIMIT_S) -> ProbeResult:
    """Run one probe in a process of its own.

    Args:
        arguments: Of `probe.main`.
        limit_s: After which it counts as hanging, and is killed.
    """
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-P", "-W", "ignore", "-c", _CODE.format(root=root), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return ProbeResult(problem=f"did not end within {limit_s:g} s")
    except OSError as error:
        return ProbeResult(problem=f"can't be started: {error.strerror}")
    answer = answer_from_output(done.stdout)
    if answer is not None:
        # A crash on the way out, as some libraries have it, does not undo the answer.
        return ProbeResult(found=answer.get("found", ""), problem=answer.get("problem", ""))
    return ProbeResult(problem=_death(done))


def _death(done: subprocess.CompletedProcess[str]) -> str:
    """How a probe ended that gave no answer."""
    if done.returncode < 0:
        try:
            return f"crashes with {signal.Signals(-done.returncode).name}"
        except ValueError:
            return f"crashes with signal {-done.returncode}"
    last_line = (done.stderr.strip() or "it said nothing").splitlines()[-1]
    return f"exits with {done.returncode}: {last_line}"
