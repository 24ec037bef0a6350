"""ONNX Runtime's CUDA provider: its graph given up when it refuses one, its libraries, its errors, its kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from fake_cuda import FakeDevice
from fake_tensorrt import install
from numpy.typing import NDArray

from spacecompile.errors import DeviceError, DeviceMemoryError
from spacecompile.runtime.backend import GpuOptions
from spacecompile.runtime.backends import onnxruntime_cuda_, registry
from spacecompile.runtime.backends.onnxruntime_ import open_session, ort, ort_errors
from spacecompile.runtime.backends.onnxruntime_cuda_ import Provider, onnxruntime_cuda_backend, preload_libraries
from spacecompile.runtime.backends.registry import entry_named
from spacecompile.runtime.bundle import open_bundle
from spacecompile.runtime.cuda.backend import CudaBackend

REFUSAL = (
    "This session cannot use the graph capture feature as requested by the user as all compute graph nodes have not "
    "been partitioned to the CUDAExecutionProvider"
)


class WithGraph(Provider):
    """The CPU provider with the option that the CUDA provider has."""

    def options(self, device_index: int, stream: int, *, graph: bool) -> dict[str, str]:
        assert (device_index, stream > 0) == (0, True)
        return {"enable_cuda_graph": "1" if graph else "0"}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What every session was opened with; one with a graph is refused as ONNX Runtime does."""
    install(monkeypatch, tmp_path, FakeDevice(is_late=False))
    provider = WithGraph(name="CPUExecutionProvider", device_type="cpu", has_graph=True)
    monkeypatch.setattr(onnxruntime_cuda_, "CUDA_PROVIDER", provider)
    seen: list[str] = []

    def refuses(content: bytes, options: Any, name: str, given: Mapping[str, str] | None = None) -> Any:
        seen.append((given or {}).get("enable_cuda_graph", ""))
        if seen[-1] == "1":
            raise ort_errors.Fail(refuses.text)
        return open_session(content, options, name, given)

    refuses.text = REFUSAL  # type: ignore[attr-defined]
    monkeypatch.setattr(onnxruntime_cuda_, "open_session", refuses)
    seen.append(refuses)  # type: ignore[arg-type]
    return seen


def test_a_graph_that_is_refused_is_given_up_once_and_declared(
    opened: list[Any], make_graph: Callable[..., bytes], craft_frame: NDArray[np.uint8], caplog: Any
) -> None:
    backend = onnxruntime_cuda_backend(make_graph(), threads=1, spinning=False, gpu=GpuOptions(in_flight=3))
    assert isinstance(backend, CudaBackend)
    assert opened[1:] == ["", "1", "0", "0", "0"], "read on the CPU, tried once, then each slot without"
    assert backend.graphs.startswith("none: ONNX Runtime ")
    assert "cannot use the graph capture feature" in backend.graphs
    assert sum("no CUDA graph" in message for message in caplog.messages) == 1
    assert backend.run(craft_frame).box_xyxy.tolist() == [30, 20, 90, 40]
    backend.close()


def test_a_gpu_without_room_is_not_asked_a_second_time(opened: list[Any], make_graph: Callable[..., bytes]) -> None:
    opened[0].text = "CUDA failure 2: out of memory ; GPU=0"
    with pytest.raises(DeviceMemoryError):
        onnxruntime_cuda_backend(make_graph(), threads=1, spinning=False)
    assert opened[1:] == ["", "1"]


def test_a_provider_that_can_not_be_loaded_is_an_error_and_not_another_provider(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    make_graph: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(monkeypatch, tmp_path, FakeDevice(is_late=False))
    graph = make_graph()

    def breaks(self: Any, providers: Any, *_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA_PATH is set but CUDA wasn't able to be loaded")

    engine = onnxruntime_cuda_.OnnxRuntimeCudaEngine(
        graph, threads=1, spinning=False, device_index=0, provider=onnxruntime_cuda_.CUDA_PROVIDER
    )
    monkeypatch.setattr(ort.InferenceSession, "_create_inference_session", breaks)
    with pytest.raises(DeviceError, match="wasn't able to be loaded"):
        engine.context(1, {})
    assert capsys.readouterr().out == "", "ONNX Runtime's own fallback prints"


def test_libraries_are_loaded_from_nvidias_packages_and_what_is_printed_goes_to_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folders: list[str] = []

    def preload(*, directory: str) -> None:
        folders.append(directory)
        print("Failed to load libcudnn.so.9")  # noqa: T201  as ONNX Runtime does

    monkeypatch.setattr(onnxruntime_cuda_, "ort", SimpleNamespace(preload_dlls=preload))
    preload_libraries.cache_clear()
    with caplog.at_level("INFO"):
        preload_libraries()
        preload_libraries()
    preload_libraries.cache_clear()
    assert folders == [""]
    assert capsys.readouterr().out == ""
    assert "Failed to load libcudnn.so.9" in caplog.text


@pytest.mark.parametrize("has_both", [True, False])
def test_two_packages_over_each_other_are_noticed(
    has_both: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, tmp_path, FakeDevice())

    def version(name: str) -> str:
        if name == "onnxruntime" and not has_both:
            raise PackageNotFoundError(name)
        return "1.32.0"

    monkeypatch.setattr(registry, "version", version)
    entry = entry_named("onnxruntime-cuda")
    reason = entry.missing()
    assert (reason is not None and "are both installed" in reason) == has_both
    steps = entry.remedy.split(" && ")
    assert [step.split()[1] for step in steps] == ["install", "uninstall", "install", "install"]


# Of docs/OperatorKernels.md in microsoft/onnxruntime at 001d12d, CUDA execution provider: the version that each
# kernel begins with, and the last that it is for. None is open, which ONNX Runtime takes for exactly the first: what a
# later version of the operator will mean is not known to it.
CUDA_KERNELS: dict[str, tuple[tuple[int, int | None], ...]] = {
    "Add": ((14, None),),
    "AveragePool": ((19, 21), (22, None)),
    "Cast": ((13, 18), (19, 20), (21, 22), (23, None)),
    "Clip": ((13, None),),
    "Concat": ((13, None),),
    "Conv": ((11, 21), (22, None)),
    "CumSum": ((14, None),),
    "DepthToSpace": ((13, None),),
    "DequantizeLinear": ((19, 20), (21, None)),
    "Div": ((14, None),),
    "Exp": ((13, None),),
    "Gelu": ((20, None),),
    "Gemm": ((13, None),),
    "GlobalMaxPool": ((1, None),),
    "Greater": ((13, None),),
    "LayerNormalization": ((1, 16), (17, None)),
    "Log": ((13, None),),
    "MatMul": ((13, None),),
    "Max": ((13, None),),
    "MaxPool": ((12, None),),
    "Min": ((13, None),),
    "Mul": ((14, None),),
    "Neg": ((13, None),),
    "Pad": ((13, 17), (18, None)),
    "QuantizeLinear": ((19, 20), (21, None)),
    "Reciprocal": ((13, None),),
    "ReduceMax": ((1, 17), (18, None)),
    "ReduceMean": ((1, 17), (18, None)),
    "ReduceMin": ((1, 17), (18, None)),
    "ReduceSum": ((13, None),),
    "Relu": ((14, None),),
    "Reshape": ((14, 18), (19, 20), (21, 22), (23, None)),
    "Resize": ((18, 18), (19, None)),
    "Sigmoid": ((13, None),),
    "Slice": ((13, None),),
    "Softmax": ((13, None),),
    "Split": ((18, None),),
    "Sqrt": ((13, None),),
    "Squeeze": ((13, 20), (21, 22), (23, None)),
    "Sub": ((14, None),),
    "TopK": ((11, None),),
    "Transpose": ((13, 20), (21, 22), (23, None)),
    "Unsqueeze": ((13, 20), (21, 22), (23, None)),
    "Where": ((9, 15), (16, None)),
}


def is_covered(name: str, since: int) -> bool:
    return any(first == since or (last is not None and first <= since <= last) for first, last in CUDA_KERNELS[name])


def test_every_operator_of_a_bundle_has_a_kernel_on_cuda(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    used = set()
    for variant in bundle.manifest.variants:
        model = onnx.load_from_string(bundle.read(variant.path))
        (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
        used |= {(it.op_type, onnx.defs.get_schema(it.op_type, opset, "").since_version) for it in model.graph.node}
    assert {name for name, _ in used} <= CUDA_KERNELS.keys()
    assert [f"{name}-{since}" for name, since in sorted(used) if not is_covered(name, since)] == []
