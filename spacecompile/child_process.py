"""A child process: what runs in it may crash, hang, talk or be slow to import, and this process is none the worse.

The child runs `main` of one module of this package in a fresh interpreter, and hands its answer over as one tagged
line of JSON, since a library may write lines of its own before it. Needs the standard library only.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_TAG = "spacecompile-child:"

# This very spacecompile, be it installed or a clone; beyond it nothing in its folder or in the current one (-P) may
# pass for a library. Nothing else is imported before the module: a child may time its own imports.
_CODE = (
    "import sys; sys.path.insert(0, {root!r}); import spacecompile; del sys.path[0]; "
    "from {module} import main; main(sys.argv[1:])"
)


def run_child(
    module: str, arguments: Sequence[str] = (), *, limit_s: float, isolated: bool = False
) -> dict[str, Any] | str:
    """Run a module's `main` in a fresh interpreter.

    Args:
        module: Full name of the module, whose `main` takes a list of arguments and ends with `report`.
        arguments: Arguments of `main`.
        limit_s: Seconds after which the child counts as hanging, and is killed.
        isolated: Whether the child ignores PYTHONPATH and the user's own packages.

    Returns:
        The answer that the child reported; or, where it reported none, how it ended, as "crashes with SIGSEGV".
    """
    code = _CODE.format(root=str(Path(__file__).resolve().parents[1]), module=module)
    command = [sys.executable, "-I" if isolated else "-P", "-W", "ignore", "-c", code, *arguments]
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
        return f"did not end within {limit_s:g} s"
    except OSError as error:
        return f"can't be started: {error.strerror}"
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(_TAG):
            # A crash on the way out, as some libraries have it, does not undo the answer.
            answer: dict[str, Any] = json.loads(line.removeprefix(_TAG))
            return answer
    return _end(done)


def report(answer: Mapping[str, Any]) -> None:
    """Hand an answer over to the process that started this one.

    Args:
        answer: Values that JSON can hold, by name.
    """
    # The line break ends whatever a library left unfinished.
    sys.stdout.write(f"\n{_TAG}{json.dumps(answer)}\n")


def _end(done: subprocess.CompletedProcess[str]) -> str:
    """How a child ended that reported nothing."""
    if done.returncode < 0:
        try:
            return f"crashes with {signal.Signals(-done.returncode).name}"
        except ValueError:
            return f"crashes with signal {-done.returncode}"
    last_line = (done.stderr.strip() or "it said nothing").splitlines()[-1]
    return f"exits with {done.returncode}: {last_line}"
