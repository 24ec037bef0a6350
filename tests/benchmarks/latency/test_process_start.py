from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("psutil")

from spacecompile.benchmarks.latency.process_start import OneStart, start_once, summarise_starts
from spacecompile.benchmarks.latency.records import ProcessStart
from spacecompile.benchmarks.latency.variants import LoadSettings
from spacecompile.runtime.bundle import open_bundle

HOW = LoadSettings(backend="onnxruntime", threads=1, spinning=False)


def one(load_ms: float, peak_memory_bytes: int) -> OneStart:
    return OneStart(
        import_ms=100.0,
        load_ms=load_ms,
        first_answer_ms=40.0,
        next_answer_ms=20.0,
        imported_memory_bytes=50_000_000,
        peak_memory_bytes=peak_memory_bytes,
    )


def test_times_are_medians_and_memory_is_the_largest() -> None:
    seen = summarise_starts([one(300, 180), one(900, 170), one(310, 190)])
    assert (seen.starts, seen.load_ms, seen.start_to_answer_ms) == (3, 310, 450)
    assert seen.peak_memory_bytes == 190


def test_a_start_that_failed_leaves_no_number() -> None:
    assert summarise_starts([one(300, 180), "it crashed"]) == ProcessStart(starts=2, problem="it crashed")


def test_a_real_start_tells_times_and_memory_of_its_own_process(tiny_bundle: Path) -> None:
    # What this process holds must not count for the other: `ru_maxrss` would.
    ballast = bytearray(b"1") * 600_000_000
    bundle = open_bundle(tiny_bundle)
    seen = start_once(tiny_bundle, bundle.variant("fp32"), HOW)
    assert isinstance(seen, OneStart), seen
    assert 0 < seen.imported_memory_bytes < seen.peak_memory_bytes < len(ballast)
    assert min(seen.import_ms, seen.load_ms, seen.first_answer_ms, seen.next_answer_ms) > 0


def test_a_process_that_fails_says_why(tiny_bundle: Path, tmp_path: Path) -> None:
    seen = start_once(tmp_path, open_bundle(tiny_bundle).variant("fp32"), HOW)
    assert isinstance(seen, str)
    assert "exits with 1" in seen
