from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from spacecompile.errors import MissingPartError, UsageError
from spacecompile.runtime.cuda import engine_api
from spacecompile.runtime.cuda.driver import CudaProbe, GpuFacts
from spacecompile.runtime.cuda.engine_api import EngineApi, collected_errors, load_engine_api, logger_of, sentence_of

NO_GPU = CudaProbe(device=None, problem="NVIDIA's driver is not installed (no such file)")
GPU = CudaProbe(device=GpuFacts(gpu="Test GPU", compute_capability="8.7", cuda="13.1"))


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is imported as `tensorrt`, and that no later test finds."""
    monkeypatch.syspath_prepend(tmp_path)
    before = sys.modules.pop("tensorrt", None)
    yield tmp_path / "tensorrt.py"
    sys.modules.pop("tensorrt", None)
    if before is not None:
        sys.modules["tensorrt"] = before


@pytest.mark.parametrize(
    ("probe", "code", "message"),
    [
        pytest.param(
            NO_GPU, "raise AssertionError", "for the GPU of this machine, but NVIDIA's driver", id="no driver"
        ),
        pytest.param(
            GPU, "raise ImportError('libnvinfer.so.11: missing')", "libraries can't be loaded: libnv", id="libs"
        ),
        pytest.param(GPU, "__version__ = '10.3.0.26'", "10.3.0.26 is installed; 10.12 or newer", id="too old"),
    ],
)
def test_full_tensorrt_is_only_touched_where_it_can_work(
    tensorrt: Path, monkeypatch: pytest.MonkeyPatch, probe: CudaProbe, code: str, message: str
) -> None:
    tensorrt.write_text(code)
    monkeypatch.setattr(engine_api, "probe_cuda", lambda: probe)
    with pytest.raises(MissingPartError, match=message):
        load_engine_api("tensorrt")


def test_an_engine_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--engine is 'trt'; choose one of tensorrt, tensorrt-rtx\."):
        load_engine_api("trt")


def test_a_missing_library_is_answered_with_the_command_that_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacecompile.extras.find_spec", lambda _name: None)
    with pytest.raises(MissingPartError, match=r"pip install 'spacecompile\[tensorrt-rtx\]'"):
        load_engine_api("tensorrt-rtx")


def test_tensorrt_rtx_needs_no_gpu(rtx: EngineApi) -> None:
    assert rtx.title == f"TensorRT-RTX {rtx.trt.__version__}"
    assert rtx.cuda in {"12", "13"}


def test_what_the_library_says_goes_to_logging_and_its_errors_are_kept(
    rtx: EngineApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=engine_api.__name__)
    trt = rtx.trt
    with collected_errors(rtx) as errors:
        logger_of(trt).log(trt.ILogger.WARNING, "a warning")
        logger_of(trt).log(trt.ILogger.ERROR, "an error")
        assert errors == ["an error"]
    with collected_errors(rtx) as errors:
        assert errors == []
    assert ("spacecompile.runtime.cuda.engine_api", logging.WARNING, "a warning") in caplog.record_tuples


def test_a_sessions_errors_are_not_those_of_another_thread(rtx: EngineApi) -> None:
    """Two sessions, each in its thread, and a thread of the library's own, whose errors may be of either."""
    trt = rtx.trt
    both_collect, has_logged = threading.Barrier(2), threading.Barrier(2)
    found: dict[str, list[str]] = {}

    def session() -> None:
        with collected_errors(rtx) as errors:
            both_collect.wait(timeout=60)
            logger_of(trt).log(trt.ILogger.ERROR, "theirs")
            has_logged.wait(timeout=60)
        found["theirs"] = errors

    thread = threading.Thread(target=session)
    with collected_errors(rtx) as errors:
        thread.start()
        both_collect.wait(timeout=60)
        logger_of(trt).log(trt.ILogger.ERROR, "ours")
        worker = threading.Thread(target=lambda: logger_of(trt).log(trt.ILogger.ERROR, "the library's"))
        worker.start()
        worker.join()
        with collected_errors(rtx) as inner:
            logger_of(trt).log(trt.ILogger.ERROR, "inner")
        logger_of(trt).log(trt.ILogger.ERROR, "ours again")
        has_logged.wait(timeout=60)
        thread.join()
    assert (errors, inner) == (["ours", "the library's", "ours again"], ["inner"])
    assert sorted(found["theirs"]) == ["the library's", "theirs"]


def test_one_logger_serves_every_builder(rtx: EngineApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger=engine_api.__name__)
    for _ in range(2):
        builder = rtx.trt.Builder(logger_of(rtx.trt))
        builder.create_builder_config()
        del builder
        gc.collect()
    assert not [record for record in caplog.records if "differs" in record.getMessage()]


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        pytest.param(
            "Invalid Node - node_of_y\nITensor::getDimensions: Error Code 4: API Usage Error (node_of_y: first input "
            "has type UInt8 but must have type Float. In checkType at /_src/optimizer/common/nodeBase.cpp:96)",
            "node_of_y: first input has type UInt8 but must have type Float",
            id="a node",
        ),
        pytest.param(
            "Invalid Node - turn\nITensor::getDimensions: Error Code 4: API Usage Error (turn: no. In checkType at "
            "/_src/a.cpp:96)\n[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
            "/_src/b.cpp:250 (cudaError 35: driver version is insufficient))",
            "turn: no",
            id="a node, and CUDA beside it",
        ),
        pytest.param(
            "IBuilder::build: Error Code 1: Cuda Runtime (out of memory)", "out of memory", id="CUDA and nothing else"
        ),
        pytest.param(
            "Assertion failed: status.is_success(): Found unsupported input type of UINT8",
            "Found unsupported input type of UINT8",
            id="an assertion",
        ),
        pytest.param(
            "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:337: check_turing] Cannot compile "
            "operation 'a': FP32 GEMM is not supported. In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:1)",
            "Cannot compile operation 'a': FP32 GEMM is not supported",
            id="the builder",
        ),
        pytest.param("as it is", "as it is", id="plain"),
        pytest.param("", "no reason was given", id="empty"),
    ],
)
def test_a_message_becomes_a_sentence(message: str, sentence: str) -> None:
    assert sentence_of(message) == sentence
