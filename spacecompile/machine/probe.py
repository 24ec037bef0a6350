"""Trying a third-party part without going down with it."""

from __future__ import annotations

from collections.abc import Sequence

from spacecompile.child_process import run_child
from spacecompile.record import Record

_LIMIT_S = 180.0
"""Importing the compile extra took 30 s on two busy cores (11 s of processor time); a cold disk takes longer."""


class ProbeResult(Record):
    """What came of a probe.

    Attributes:
        found: What works, for a reader; empty where it doesn't.
        problem: Why it doesn't work; empty where it does.
    """

    found: str = ""
    problem: str = ""


def run_probe(arguments: Sequence[str], *, limit_s: float = _LIMIT_S) -> ProbeResult:
    """Run one probe in a process of its own.

    Args:
        arguments: Arguments of `probe_child.main`.
        limit_s: Seconds after which the probe counts as hanging, and is killed.
    """
    answer = run_child("spacecompile.machine.probe_child", arguments, limit_s=limit_s)
    return ProbeResult(problem=answer) if isinstance(answer, str) else ProbeResult(**answer)
