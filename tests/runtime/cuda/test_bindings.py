"""The calls of CUDA itself: every method with the real bindings, which refuse without a driver, and the errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeDevice

from spacecompile.errors import DeviceError, DeviceLostError, DeviceMemoryError, MissingPartError
from spacecompile.runtime.cuda import bindings
from spacecompile.runtime.cuda.bindings import STICKY_ERRORS, CudaBindingsDevice, error_of, open_device
from spacecompile.runtime.cuda.device import CudaDevice
from spacecompile.runtime.cuda.driver import probe_cuda

runtime_api = pytest.importorskip("cuda.bindings.runtime", reason="the cuda extra is not installed")
HAS_GPU = probe_cuda().device is not None
without_gpu = pytest.mark.skipif(HAS_GPU, reason="there is a GPU, which would take the made-up handles")
HOST = np.zeros(8, np.uint8)

CALLS: dict[str, Callable[[CudaDevice], object]] = {
    "activate": lambda device: device.activate(),
    "restore": lambda device: device.restore(1),
    "allocate": lambda device: device.allocate(8),
    "free": lambda device: device.free(4096),
    "allocate_pinned": lambda device: device.allocate_pinned(8),
    "free_pinned": lambda device: device.free_pinned(HOST),
    "create_stream": lambda device: device.create_stream(),
    "destroy_stream": lambda device: device.destroy_stream(7),
    "create_event": lambda device: device.create_event(),
    "destroy_event": lambda device: device.destroy_event(7),
    "record": lambda device: device.record(7, 8),
    "record_in_graph": lambda device: device.record_in_graph(7, 8),
    "elapsed_ms": lambda device: device.elapsed_ms(7, 8),
    "wait": lambda device: device.wait(8, 7),
    "is_reached": lambda device: device.is_reached(7),
    "synchronize": lambda device: device.synchronize(7),
    "copy_in": lambda device: device.copy_in(4096, HOST, 8),
    "copy_out": lambda device: device.copy_out(HOST, 4096, 8),
    "copy_rows": lambda device: device.copy_rows(4096, 8192, row_bytes=3, pitch_bytes=4, rows=2, stream=8),
    "begin_capture": lambda device: device.begin_capture(8),
    "end_capture": lambda device: device.end_capture(8),
    "launch": lambda device: device.launch(9, 8),
    "destroy_graph": lambda device: device.destroy_graph(9),
    "device_of": lambda device: device.device_of(4096),
    "free_bytes": lambda device: device.free_bytes(),
}


def methods_of(kind: type) -> set[str]:
    return {name for name, member in vars(kind).items() if inspect.isfunction(member) and not name.startswith("_")}


def test_the_fake_and_the_real_device_have_the_whole_interface() -> None:
    assert methods_of(CudaDevice) == set(CALLS)
    for name in CALLS:
        wanted = inspect.signature(getattr(CudaDevice, name))
        for kind in (CudaBindingsDevice, FakeDevice):
            assert inspect.signature(getattr(kind, name)).parameters.keys() == wanted.parameters.keys()


@without_gpu
@pytest.mark.parametrize("name", CALLS)
def test_every_call_takes_its_arguments_and_reports_what_cuda_says(name: str) -> None:
    # A call with a wrong number or type of arguments is a TypeError of the bindings, not an answer of CUDA.
    with pytest.raises(DeviceError, match=r"GPU 0 reports cudaError\w+ \(.+\)\."):
        CALLS[name](CudaBindingsDevice(runtime_api, 0))


@without_gpu
def test_a_machine_without_a_gpu_is_a_missing_part() -> None:
    with pytest.raises(MissingPartError, match="CUDA finds no GPU"):
        open_device()


def test_bindings_that_raise_without_a_driver_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> None:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(bindings, "import_module", lambda _: SimpleNamespace(cudaGetDeviceCount=refuses))
    with pytest.raises(MissingPartError, match=r"Failed to dlopen libcuda\.so\.1\. Install NVIDIA's driver"):
        open_device()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudaErrorMemoryAllocation", DeviceMemoryError),
        ("cudaErrorIllegalAddress", DeviceLostError),
        ("cudaErrorLaunchFailure", DeviceLostError),
        ("cudaErrorUnknown", DeviceError),
        ("cudaErrorStreamCaptureInvalidated", DeviceError),
    ],
)
def test_an_error_of_cuda_has_its_type(name: str, kind: type[DeviceError]) -> None:
    error = error_of(name, "its text", gpu=3)
    assert type(error) is kind
    assert str(error).startswith(f"GPU 3 reports {name} (its text).")
    assert error.exit_code == 3


def test_every_error_that_cuda_documents_as_fatal_is_known_to_stick() -> None:
    members = import_module("cuda.bindings.runtime").cudaError_t
    fatal = {it.name for it in members if "terminated and relaunched" in (it.__doc__ or "")}
    assert "cudaErrorIllegalAddress" in fatal
    assert fatal <= STICKY_ERRORS
    assert {name for name in STICKY_ERRORS if hasattr(members, name)} == STICKY_ERRORS


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason=probe_cuda().problem or "there is a GPU")
def test_bytes_go_to_the_gpu_and_back_through_a_graph() -> None:
    device: Any = open_device()
    stream, event, pointer = device.create_stream(), device.create_event(), device.allocate(1024)
    there, back = device.allocate_pinned(1024), device.allocate_pinned(1024)
    start, end = device.create_event(timed=True), device.create_event(timed=True)
    device.begin_capture(stream)
    device.record_in_graph(start, stream)
    device.copy_in(pointer, there, stream)
    device.copy_out(back, pointer, stream)
    device.record_in_graph(end, stream)
    graph = device.end_capture(stream)
    for value in (3, 7):
        there[:] = value
        device.launch(graph, stream)
        device.record(event, stream)
        device.synchronize(event)
        assert (back == value).all()
        assert 0 < device.elapsed_ms(start, end) < 1_000
    assert device.device_of(pointer) == 0
    assert device.device_of(HOST.ctypes.data) is None


def test_a_gpu_that_is_current_already_is_not_set_again() -> None:
    calls: list[int] = []
    api = SimpleNamespace(
        cudaError_t=runtime_api.cudaError_t,
        cudaGetDevice=lambda: (runtime_api.cudaError_t.cudaSuccess, 1),
        cudaSetDevice=lambda index: (calls.append(index), (runtime_api.cudaError_t.cudaSuccess,))[1],
    )
    for index in (1, 2):
        with bindings.active(CudaBindingsDevice(api, index)):
            pass
    assert calls == [2, 1], "set for the other GPU only, and the caller's set again behind it"
