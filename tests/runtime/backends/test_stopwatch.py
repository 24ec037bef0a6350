"""What the stopwatch takes for a run: the GPU's clock where the backend has it, the host's elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from fake_cuda import ColorEngine, FakeDevice

from spacecompile.runtime.backends.stopwatch import StopwatchBackend
from spacecompile.runtime.cuda.backend import CudaBackend

FRAME_HWC = np.zeros((96, 128, 3), np.uint8)


@pytest.fixture
def device() -> FakeDevice:
    device = FakeDevice()
    device.work_ms = {"copy_in": 1000.0, "engine": 3000.0, "copy_out": 250.0}  # no host takes that long for it
    return device


def test_the_gpus_clock_tells_the_graph_from_its_copies(device: FakeDevice) -> None:
    timed = StopwatchBackend(CudaBackend(ColorEngine(device), device, timed=True))
    for _ in range(2):
        timed.run(FRAME_HWC)
    assert timed.runs_ms == [3000.0, 3000.0]
    assert timed.with_copies_ms == [5000.0, 5000.0]


def test_without_it_the_host_times_the_call(device: FakeDevice) -> None:
    timed = StopwatchBackend(CudaBackend(ColorEngine(device), device))
    timed.run(FRAME_HWC)
    assert timed.runs_ms == timed.with_copies_ms
    assert 0 < timed.runs_ms[0] < 3000.0
