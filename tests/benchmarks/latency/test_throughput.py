from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spacecompile.benchmarks.latency.throughput import measure_throughput, run_side_by_side, session_counts
from spacecompile.benchmarks.latency.variants import LoadSettings
from spacecompile.errors import UsageError
from spacecompile.runtime.bundle import open_bundle

FRAMES_HWC = [np.zeros((2, 2, 3), np.uint8)] * 2


@pytest.mark.parametrize(
    ("threads", "counts"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))]
)
def test_sessions_double_up_to_one_per_thread(threads: int, counts: tuple[int, ...]) -> None:
    assert session_counts(threads) == counts


def test_two_real_sessions_side_by_side_answer_frames(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    how = LoadSettings(backend="onnxruntime", threads=2, spinning=True)
    frames_HWC = [np.zeros((128, 128, 3), np.uint8)]
    seen = measure_throughput(bundle, bundle.variant("fp32"), frames_HWC, how=how, sessions=2, duration_s=0.1)
    assert (seen.sessions, seen.threads) == (2, 1)
    assert seen.frames >= 2
    assert seen.frames_per_s == pytest.approx(seen.frames / seen.seconds)


def test_a_failure_in_one_session_is_the_caller_s() -> None:
    def fail(_: object) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(UsageError, match="out of memory"):
        run_side_by_side([fail, lambda _: None], FRAMES_HWC, duration_s=0.01)
