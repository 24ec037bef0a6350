"""What OpenVINO needs beyond the tester that every backend passes: honest precision, an honest cache, and silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("openvino", reason="the openvino extra is not installed", exc_type=ModuleNotFoundError)

from spacecompile.errors import MissingPartError
from spacecompile.runtime.backends import openvino_import
from spacecompile.runtime.backends.openvino_ import OpenVinoBackend, _compiled, require_bf16, require_realised
from spacecompile.runtime.backends.openvino_cache import BlobCache
from spacecompile.runtime.backends.openvino_import import openvino_core
from spacecompile.runtime.cpu import cpu_features

GraphMaker = Callable[..., bytes]
Frame = NDArray[np.uint8]

needs_bf16 = pytest.mark.skipif(
    not cpu_features() & {"amx_bf16", "avx512_bf16"}, reason="this CPU does not compute in bf16"
)


def box_of(graph: bytes, frame_HWC: Frame, folder: Path, *, cache: bool = True) -> list[float]:
    backend = OpenVinoBackend(graph, threads=1, spinning=False, cache=cache, cache_folder=folder)
    box: list[float] = backend.run(frame_HWC).box_xyxy.tolist()
    backend.close()
    return box


def test_the_second_load_takes_the_compiled_model(make_graph: GraphMaker, craft_frame: Frame, tmp_path: Path) -> None:
    assert box_of(make_graph(), craft_frame, tmp_path) == [30, 20, 90, 40]
    box_of(make_graph(offset=5.0), craft_frame, tmp_path / "other")
    (path,), (other_path,) = tmp_path.glob("*.blob"), (tmp_path / "other").glob("*.blob")
    # Another model under this one's key, as only this user could put it there, shows which of the two runs.
    other, cache = BlobCache.open(tmp_path / "other"), BlobCache.open(tmp_path)
    assert other is not None
    assert cache is not None
    blob = other.read(other_path.stem)
    assert blob is not None
    cache.write(path.stem, blob)
    assert box_of(make_graph(), craft_frame, tmp_path) == [35, 25, 95, 45]
    assert box_of(make_graph(), craft_frame, tmp_path, cache=False) == [30, 20, 90, 40]


def overwrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40] + bytes(40))


def put_noise(path: Path) -> None:
    cache = BlobCache.open(path.parent)
    assert cache is not None
    cache.write(path.stem, b"no model of OpenVINO" * 50)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(overwrite, "is damaged, compiling again"), (put_noise, "OpenVINO refuses the compiled model of its cache")],
    ids=["damaged", "of another kind"],
)
def test_what_is_wrong_in_the_cache_is_compiled_again(
    make_graph: GraphMaker,
    craft_frame: Frame,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    box_of(make_graph(), craft_frame, tmp_path)
    (path,) = tmp_path.glob("*.blob")
    sound = path.read_bytes()
    damage(path)
    assert path.read_bytes() != sound
    assert box_of(make_graph(), craft_frame, tmp_path) == [30, 20, 90, 40]
    assert message in caplog.text
    caplog.clear()
    assert box_of(make_graph(), craft_frame, tmp_path) == [30, 20, 90, 40]
    assert not caplog.text


def test_without_a_cache_nothing_is_written(make_graph: GraphMaker, craft_frame: Frame, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    box_of(make_graph(), craft_frame, folder, cache=False)
    assert not folder.exists()
    box_of(make_graph(), craft_frame, folder)
    assert len(list(folder.iterdir())) == 1


TWO_MODELS_AND_A_SIGNAL = """
import signal, sys
from pathlib import Path
from spacecompile.runtime.backends.openvino_ import OpenVinoBackend

graph = Path(sys.argv[1]).read_bytes()
first, second = [OpenVinoBackend(graph, threads=1, spinning=False, cache=False) for _ in range(2)]
first.close()
del first
second.close()
del second
signal.signal(signal.SIGINT, lambda *_: print("handled"))
signal.raise_signal(signal.SIGINT)
"""


def test_a_signal_is_handled_after_two_models_are_dropped_in_the_order_of_their_making(tiny_bundle: Path) -> None:
    graph = tiny_bundle / "variants/fp32/model.onnx"
    done = subprocess.run(
        [sys.executable, "-c", TWO_MODELS_AND_A_SIGNAL, str(graph)], capture_output=True, text=True, check=False
    )
    # Where OpenVINO gives threads a stack for signals (CPUs with AMX) this was a segmentation fault.
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_threads_that_load_at_once_share_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        @staticmethod
        def Core() -> object:
            time.sleep(0.05)  # the other threads are here by now
            return object()

    monkeypatch.setattr(openvino_import, "import_openvino", Module)
    monkeypatch.setattr(openvino_import, "_core_of", cache(openvino_import._core_of.__wrapped__))
    with ThreadPoolExecutor(4) as pool:
        cores = [pool.submit(openvino_core) for _ in range(4)]
    assert len({id(core.result()) for core in cores}) == 1


def test_a_model_that_can_not_be_exported_runs_uncached(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Compiled:
        def export_model(self, _: object) -> None:
            raise RuntimeError("somewhere in its source\nnot implemented")

    class Core:
        def read_model(self, content: bytes) -> bytes:
            return content

        def compile_model(self, *_: object) -> Compiled:
            return Compiled()

    blobs = BlobCache.open(tmp_path / "cache")
    compiled = _compiled(Core(), b"", {"INFERENCE_PRECISION_HINT": "f32"}, blobs=blobs, cpu={})
    assert isinstance(compiled, Compiled)
    assert "the compiled model is not kept: OpenVINO can't export it: not implemented." in caplog.text
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cpu_without_bf16_is_refused() -> None:
    with pytest.raises(MissingPartError, match=r"only in FP32, INT8\. Use the fp32 variant"):
        require_bf16(["FP32", "INT8"])
    require_bf16(["BF16", "FP32"])


@needs_bf16
def test_bf16_is_realised_in_nearly_every_layer_and_differs_from_float32(
    tiny_bundle: Path, toy_frames: list[Frame], tmp_path: Path
) -> None:
    graph = (tiny_bundle / "variants/fp32/model.onnx").read_bytes()
    exact, rounded = (
        OpenVinoBackend(graph, precision=precision, threads=1, spinning=False, cache_folder=tmp_path)
        for precision in ("fp32", "bf16")
    )
    assert len(list(tmp_path.iterdir())) == 2  # OpenVINO's own key would be the same for both
    pairs = [(exact.run(frame_HWC), rounded.run(frame_HWC)) for frame_HWC in toy_frames]
    assert max(np.abs(a.class_probs_L - b.class_probs_L).max() for a, b in pairs) > 1e-3
    assert max(np.mean(a.parts_HW != b.parts_HW) for a, b in pairs) < 0.01


@needs_bf16
@pytest.mark.parametrize(("asked", "realised"), [("bf16", "f32"), ("fp32", "bf16"), ("int8", "bf16")])
def test_a_model_that_computes_in_something_else_is_refused(tiny_bundle: Path, asked: str, realised: str) -> None:
    core = openvino_core()
    model = core.read_model((tiny_bundle / "variants/fp32/model.onnx").read_bytes())
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": realised})
    with pytest.raises(MissingPartError, match=f"compiled the graph for {realised} with [0-9]+ of [1-9][0-9]+ layers"):
        require_realised(asked, compiled)  # type: ignore[arg-type]


def test_an_int8_variant_without_a_layer_in_int8_is_refused(tiny_bundle: Path) -> None:
    core = openvino_core()
    model = core.read_model((tiny_bundle / "variants/fp32/model.onnx").read_bytes())
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    require_realised("fp32", compiled)
    with pytest.raises(MissingPartError, match=r"compiled none of the [1-9][0-9]+ layers .* in int8"):
        require_realised("int8", compiled)


def test_an_int8_variant_is_realised(precise_bundle: Path) -> None:
    graph = (precise_bundle / "variants/int8/model.onnx").read_bytes()
    OpenVinoBackend(graph, precision="int8", threads=1, spinning=False, cache=False).close()


def test_fewer_threads_than_asked_for_are_told(
    make_graph: GraphMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    threads = 4 * (os.cpu_count() or 1)
    OpenVinoBackend(make_graph(), threads=threads, spinning=False, cache_folder=tmp_path)
    assert f"threads, not {threads}" in caplog.text


def test_the_import_reports_to_nobody(tmp_path: Path) -> None:
    """OpenVINO's import sends an event from a thread and a child process, and writes a client id into the home."""
    code = """
import json, os, sys, threading
from spacecompile.runtime.backends.openvino_import import import_openvino
openvino = import_openvino()
import spacecompile.runtime.backends.openvino_
print(json.dumps({
    "threads": threading.active_count(),
    "home": os.listdir(os.environ["HOME"]),
    "modules": [name for name in ("openvino_telemetry", "multiprocessing") if name in sys.modules],
    "whole": hasattr(openvino, "convert_model"),
}))
"""
    # Telemetry is off under these anyway.
    unwatched = {"CI", "TF_BUILD", "JENKINS_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in unwatched}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=environment | {"HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)},
    )
    assert json.loads(done.stdout) == {"threads": 1, "home": [], "modules": [], "whole": True}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_forked_while_another_thread_makes_the_core_can_make_its_own() -> None:
    code = """
import os, sys
from spacecompile.runtime.backends import openvino_import
openvino_import._locks[0].acquire()
child = os.fork()
if child == 0:
    os._exit(0 if openvino_import._locks[0].acquire(timeout=10) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
