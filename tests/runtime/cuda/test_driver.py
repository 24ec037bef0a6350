from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from spacecompile.runtime.cuda.driver import GpuFacts, probe_cuda

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="a driver to ask is made with a C compiler")

# A driver of CUDA 13.1 with one GPU of compute capability 8.7.
SOUND = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 13010; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Test GPU", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 8 : 7; return 0; }
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the library of the driver is looked for first."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    return tmp_path / "libcuda.so.1"


def install(driver: Path, code: str) -> None:
    source = driver.with_name("driver.c")
    source.write_text(code)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(driver), str(source)], check=True)


def test_the_first_gpu_is_described(driver: Path) -> None:
    install(driver, SOUND)
    probe = probe_cuda()
    assert probe.problem == ""
    assert probe.device is not None
    assert (probe.device.gpu, probe.device.compute_capability, probe.device.cuda) == ("Test GPU", "8.7", "13.1")
    assert isinstance(probe.device, GpuFacts)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        pytest.param("int cuInit(unsigned flags) { return 100; }", "cuInit gives 100", id="no GPU"),
        pytest.param("int cuInit(unsigned flags) { return *(volatile int *)0; }", "crashes", id="crash"),
        pytest.param("int cuInit(unsigned flags) { return 0; }", "crashes", id="stub library without the functions"),
        pytest.param(SOUND.replace("*count = 1", "*count = 0"), "is there, but no GPU", id="every GPU hidden"),
        pytest.param(SOUND.replace("strncpy", "return 3; strncpy"), "cuDeviceGetName gives 3", id="half a driver"),
    ],
)
def test_a_driver_that_is_of_no_use_is_said_to_be(driver: Path, code: str, problem: str) -> None:
    install(driver, code)
    probe = probe_cuda()
    assert probe.device is None
    assert problem in probe.problem


def test_a_missing_driver_is_said_to_be_missing(driver: Path) -> None:
    driver.write_bytes(b"not a library")
    probe = probe_cuda()
    assert probe.device is None
    assert "driver is not installed" in probe.problem
