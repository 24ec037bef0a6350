"""Names of results files: `<model>_<device>_<date>.json`, one per run."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from msgspec import UnsetType

from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.runtime.backends.registry import entry_named


def dated_file(folder: Path, *parts: str, force: bool = False) -> Path:
    """Where a run's results go: named after its parts and the day (UTC), beside the runs of the same day.

    Args:
        folder: For results.
        parts: What the run was of, such as a bundle and a device.
        force: Whether the first file of the day may be replaced; a number is added otherwise.
    """
    slugs = [re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts]
    stem = "_".join([*slugs, str(datetime.now(UTC).date())])
    first = folder / f"{stem}.json"
    if force or not first.exists():
        return first
    numbered = (folder / f"{stem}_{number}.json" for number in count(2))
    return next(path for path in numbered if not path.exists())


def file_of_result(folder: Path, result: BenchResult, *, force: bool = False) -> Path:
    """Where a benchmark's results go in a folder.

    Args:
        folder: For results.
        result: Result of the run.
        force: As `dated_file`.
    """
    engines = {} if isinstance(result.configuration, UnsetType) else result.configuration.engines
    on_gpu = any(entry_named(engine.name).on_gpu for engine in engines.values())
    return dated_file(folder, result.subject.bundle, "cuda" if on_gpu else "cpu", force=force)
