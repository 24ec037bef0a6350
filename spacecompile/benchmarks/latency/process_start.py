"""Cold starts and memory: every variant in processes of its own, as a user's program starts it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from spacecompile.benchmarks.latency.records import ProcessStart
from spacecompile.benchmarks.latency.variants import LoadSettings
from spacecompile.child_process import run_child
from spacecompile.contract import Variant

_LIMIT_S = 300.0


class OneStart(msgspec.Struct, frozen=True, kw_only=True):
    """What one process reported; see `records.ProcessStart`."""

    import_ms: float
    load_ms: float
    first_answer_ms: float
    next_answer_ms: float
    imported_memory_bytes: int
    peak_memory_bytes: int


def start_once(root: Path, variant: Variant, how: LoadSettings, *, limit_s: float = _LIMIT_S) -> OneStart | str:
    """Start a variant in a fresh process.

    Args:
        root: Folder of the bundle.
        variant: Variant of the bundle.
        how: How the variant is loaded.
        limit_s: Seconds after which the start counts as hanging, and the process is killed.

    Returns:
        Times and memory of the start, or why it failed.
    """
    arguments = [str(root.resolve()), variant.name, how.backend, str(how.threads), "1" if how.spinning else "0"]
    seen = run_child("spacecompile.benchmarks.latency.process_start_child", arguments, limit_s=limit_s)
    return f"the process {seen}" if isinstance(seen, str) else msgspec.convert(seen, OneStart)


def summarise_starts(starts: Sequence[OneStart | str]) -> ProcessStart:
    """Medians of times, the largest of memory; without a number if any start failed.

    Args:
        starts: Outcomes of at least one start.
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
