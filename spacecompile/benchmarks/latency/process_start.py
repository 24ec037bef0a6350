"""Cold starts and memory: every variant in processes of its own, as a user's program starts it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from spacecompile.benchmarks.latency.records import ProcessStart
from spacecompile.benchmarks.latency.variants import LoadSettings
from spacecompile.contract import Variant

LIMIT_S = 300.0
"""After which a start counts as hanging."""

_CODE = (
    "import sys; sys.path.insert(0, {root!r}); "
    "from spacecompile.benchmarks.latency.process_start_child import main; main(sys.argv[1:])"
)


class OneStart(msgspec.Struct, frozen=True, kw_only=True):
    """What one process reported; see `records.ProcessStart`."""

    import_ms: float
    load_ms: float
    first_answer_ms: float
    next_answer_ms: float
    imported_memory_bytes: int
    peak_memory_bytes: int


def start_once(root: Path, variant: Variant, how: LoadSettings, *, limit_s: float = LIMIT_S) -> OneStart | str:
    """Start a variant in a fresh process.

    Args:
        root: Of the bundle.
        variant: Of it.
        how: To load it.
        limit_s: After which the process is killed.

    Returns:
        What it took, or why it failed.
    """
    package_root = str(Path(__file__).resolve().parents[3])
    arguments = [str(root.resolve()), variant.name, how.backend, str(how.threads), "1" if how.spinning else "0"]
    command = [sys.executable, "-P", "-W", "ignore", "-c", _CODE.format(root=package_root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return f"the process did not end within {limit_s:g} s"
    except OSError as error:
        return f"the process can't be started: {error.strerror}"
    try:
        # An engine may write lines of its own before.
        return msgspec.json.decode((done.stdout.splitlines() or [""])[-1], type=OneStart)
    except msgspec.MsgspecError:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        return f"the process ended with {done.returncode}: {said}"


def summarise_starts(starts: Sequence[OneStart | str]) -> ProcessStart:
    """Medians of times, the largest of memory; without a number if any start failed.

    Args:
        starts: At least one.
    """
    problems = [start for start in starts if isinstance(start, str)]
    if problems:
        return ProcessStart(starts=len(starts), problem=problems[0])
    sound = [start for start in starts if isinstance(start, OneStart)]
    return ProcessStart(
        starts=len(sound),
        import_ms=median(start.import_ms for start in sound),
        load_ms=median(start.load_ms for start in sound),
        first_answer_ms=median(start.first_answer_ms for start in sound),
        next_answer_ms=median(start.next_answer_ms for start in sound),
        start_to_answer_ms=median(start.import_ms + start.load_ms + start.first_answer_ms for start in sound),
        imported_memory_bytes=max(start.imported_memory_bytes for start in sound),
        peak_memory_bytes=max(start.peak_memory_bytes for start in sound),
    )
