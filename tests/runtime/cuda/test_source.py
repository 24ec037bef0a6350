"""Frames through DLPack, `__cuda_array_interface__` and raw pointers, read by the real cuda-core from a fake owner."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_cuda import ColorEngine, DlpackOnGpu, FakeDevice

from spacecompile.errors import FrameError
from spacecompile.runtime.cuda.backend import CudaBackend
from spacecompile.runtime.cuda.source import LEGACY_STREAM, DeviceFrame, device_frame_from, is_on_device

SHAPE = (96, 128, 3)


class OnGpu:
    """An array with `__cuda_array_interface__` only, as numba and a camera's wrapper have."""

    def __init__(self, pointer: int, **changes: Any) -> None:
        content = {"version": 3, "shape": SHAPE, "typestr": "|u1", "data": (pointer, False), "strides": None}
        self.__cuda_array_interface__ = {k: v for k, v in (content | changes).items() if v is not Ellipsis}


def craft() -> np.ndarray[Any, np.dtype[np.uint8]]:
    frame_HWC = np.zeros(SHAPE, np.uint8)
    frame_HWC[20:30, 40:60, 0] = 255
    return frame_HWC


@pytest.mark.parametrize("kind", ["dlpack", "interface", "pointer"])
def test_every_way_to_hand_over_a_frame_gives_its_answer(kind: str) -> None:
    device = FakeDevice()
    pointer = device.put(craft())
    sources = {
        "dlpack": DlpackOnGpu(pointer, SHAPE),
        "interface": OnGpu(pointer),
        "pointer": DeviceFrame(pointer=pointer, shape=SHAPE),
    }
    backend = CudaBackend(ColorEngine(device), device)
    assert backend.submit(sources[kind]).result().box_xyxy.tolist() == [40, 20, 60, 30]
    assert device.calls["copy_in"] == device.calls["copy_rows"] == 0


def test_dlpack_is_asked_to_order_its_work_before_our_stream() -> None:
    source = DlpackOnGpu(4096, SHAPE)
    frame = device_frame_from(source, stream=77)
    assert source.asked == 77
    assert (frame.pointer, frame.shape, frame.dtype, frame.stream) == (4096, SHAPE, "uint8", None)
    assert frame.owner[0] is source


def test_dlpack_of_another_type_keeps_its_type() -> None:
    assert device_frame_from(DlpackOnGpu(4096, SHAPE, bits=16), stream=77).dtype == "uint16"


@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param({"lanes": 4}, id="vectors"),
        pytest.param({"bits": 4}, id="half bytes"),
        pytest.param({"type_code": 7}, id="float8"),
    ],
)
def test_dlpack_of_a_type_that_numpy_lacks_is_refused(dtype: dict[str, int]) -> None:
    with pytest.raises(FrameError, match=r"a type that numpy does not have: .*Cast it to uint8"):
        device_frame_from(DlpackOnGpu(4096, SHAPE, **dtype), stream=77)


@pytest.mark.parametrize(
    ("changes", "stream"),
    [
        pytest.param({"stream": 5}, 5, id="a stream"),
        pytest.param({"stream": None}, None, id="no stream"),
        pytest.param({}, None, id="nothing said"),
        pytest.param({"version": 2}, LEGACY_STREAM, id="version 2, as torch's"),
    ],
)
def test_the_stream_of_the_interface_is_waited_for(changes: dict[str, Any], stream: int | None) -> None:
    assert device_frame_from(OnGpu(4096, **changes), stream=77).stream == stream


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"stream": 0}, "stream 0", id="stream 0"),
        pytest.param({"mask": object()}, "a mask", id="a mask"),
        pytest.param({"typestr": "wrong"}, "malformed", id="type"),
        pytest.param({"shape": ...}, "malformed", id="no shape"),
        pytest.param({"data": None}, "malformed", id="no data"),
        pytest.param({"version": ...}, "malformed", id="no version"),
    ],
)
def test_a_malformed_interface_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FrameError, match=message):
        device_frame_from(OnGpu(4096, **changes), stream=77)


def test_an_owner_that_refuses_is_said_to_refuse() -> None:
    class Refuses(DlpackOnGpu):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("it requires gradients")

    class RefusesToo:
        @property
        def __cuda_array_interface__(self) -> Any:
            raise RuntimeError("it requires gradients")

    for source in (Refuses(4096, SHAPE), RefusesToo()):
        with pytest.raises(FrameError, match="it requires gradients"):
            device_frame_from(source, stream=77)


def test_arrays_of_the_host_are_not_on_a_device() -> None:
    torch = pytest.importorskip("torch")
    for source in (craft(), torch.zeros(SHAPE, dtype=torch.uint8), "frame.png", None):
        assert not is_on_device(source)
    with pytest.raises(FrameError, match="not on a GPU"):
        device_frame_from("frame.png", stream=77)
