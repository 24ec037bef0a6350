"""What this machine can do at most: multiply-adds per second of each engine and precision, and bytes per second.

Both are the best of several runs: other programs only ever make a run slower.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from spacecompile.benchmarks.limits.records import Bandwidth, Ceiling
from spacecompile.contract import Precision, Progress, no_progress
from spacecompile.errors import IntegrityError, MissingPartError, UsageError
from spacecompile.export.sealed.to_onnx import OPSET
from spacecompile.runtime.backends.raw import open_raw
from spacecompile.runtime.backends.registry import BACKENDS

MATRIX_SIDE = 1024
"""Of both factors: some 1e9 multiply-adds, enough that an engine's start of a layer weighs nothing."""

WORKING_SETS_BYTES = tuple(mebibytes << 20 for mebibytes in (1, 8, 64, 256))
"""From one that a core's own cache holds to one that only the main memory does, on most machines."""

_log = logging.getLogger(__name__)

_RUNS_MIN = 5
_COPIES_MIN_BYTES = 32 << 20
"""A timing of fewer copied bytes would measure the clock."""


@dataclass(frozen=True, kw_only=True)
class CeilingSettings:
    """How to measure.

    Attributes:
        threads: Number of threads that share one product or one copy.
        spinning: Whether idle threads wait busily.
        seconds: Per engine and precision, and per working set, after a least number of runs.
        matrix_side: Rows and columns of both factors.
        working_sets_bytes: To copy, by rising size.
    """

    threads: int
    spinning: bool
    seconds: float
    matrix_side: int = MATRIX_SIDE
    working_sets_bytes: tuple[int, ...] = WORKING_SETS_BYTES


def matrix_product(precision: Precision, side: int = MATRIX_SIDE) -> bytes:
    """An ONNX file of one matrix product with a constant second factor, as the layers of a network have one.

    Args:
        precision: Precision of the file; bf16 takes the fp32 one, int8 lies in quantisation around both factors and the
            product.
        side: Rows and columns of every matrix.
    """
    dtype = np.float16 if precision == "fp16" else np.float32
    rng = np.random.default_rng(0)
    weight_KN = rng.standard_normal((side, side), dtype=np.float32).astype(dtype)
    element = int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    if precision == "int8":
        nodes, constants, element = _quantised_product(rng.integers(-127, 128, (side, side), dtype=np.int8))
    else:
        nodes = [helper.make_node("MatMul", ["left", "right"], ["product"], name="multiply")]
        constants = [numpy_helper.from_array(weight_KN, "right")]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("left", element, (side, side))],
        [helper.make_tensor_value_info("product", element, (side, side))],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _quantised_product(weight_KN: NDArray[np.int8]) -> tuple[list[Any], list[Any], int]:
    nodes = [
        helper.make_node("DequantizeLinear", ["left", "scale", "zero"], ["left_float"]),
        helper.make_node("DequantizeLinear", ["right", "scale", "zero_right"], ["right_float"]),
        helper.make_node("MatMul", ["left_float", "right_float"], ["product_float"], name="multiply"),
        helper.make_node("QuantizeLinear", ["product_float", "scale_product", "zero"], ["product"]),
    ]
    constants = [
        numpy_helper.from_array(weight_KN, "right"),
        numpy_helper.from_array(np.asarray(0.02, np.float32), "scale"),
        numpy_helper.from_array(np.asarray(2.0, np.float32), "scale_product"),
        numpy_helper.from_array(np.asarray(128, np.uint8), "zero"),
        numpy_helper.from_array(np.asarray(0, np.int8), "zero_right"),
    ]
    return nodes, constants, int(TensorProto.UINT8)


def measure_ceilings(
    precisions: Sequence[Precision], settings: CeilingSettings, *, progress: Progress = no_progress
) -> tuple[Ceiling, ...]:
    """The peak of every engine that is here, in every precision that it computes in.

    Args:
        precisions: Wanted.
        settings: How.
        progress: Told each engine and precision.
    """
    wanted = [
        (entry.name, precision)
        for entry in BACKENDS
        for precision in precisions
        if entry.suffix == ".onnx" and precision in entry.precisions and entry.missing() is None
    ]
    found = []
    for index, (backend, precision) in enumerate(wanted):
        progress("peak of the matrix product", index, len(wanted))
        try:
            found.append(_ceiling(backend, precision, settings))
        except (MissingPartError, UsageError, IntegrityError) as error:
            _log.info("no peak of %s in %s: %s", backend, precision, error)
        finally:
            progress("peak of the matrix product", index + 1, len(wanted))
    return tuple(found)


def _ceiling(backend: str, precision: Precision, settings: CeilingSettings) -> Ceiling:
    graph = open_raw(
        backend,
        matrix_product(precision, settings.matrix_side),
        precision=precision,
        threads=settings.threads,
        spinning=settings.spinning,
        profile=True,
    )
    left_MK = np.random.default_rng(1).integers(0, 256, (settings.matrix_side, settings.matrix_side), dtype=np.uint8)
    feeds = {"left": left_MK if precision == "int8" else (left_MK / 256).astype(_feed_dtype(precision))}
    end_s, runs = time.perf_counter() + settings.seconds, 0
    while runs < _RUNS_MIN or time.perf_counter() < end_s:
        graph.run(feeds)
        runs += 1
    # The product is the slowest layer by far; copies of the input and the output are layers of their own.
    best_ms = min(max(layer.ms for layer in layers) for layers in graph.layers())
    return Ceiling(backend=backend, precision=precision, gmacs_per_s=settings.matrix_side**3 / best_ms / 1e6, runs=runs)


def _feed_dtype(precision: Precision) -> type[np.float16] | type[np.float32]:
    return np.float16 if precision == "fp16" else np.float32


def measure_bandwidths(settings: CeilingSettings, *, progress: Progress = no_progress) -> tuple[Bandwidth, ...]:
    """The best copy of each working set, each thread copying its own share.

    Args:
        settings: How.
        progress: Told each working set.
    """
    found = []
    with ThreadPoolExecutor(settings.threads) as pool:
        for index, working_set_bytes in enumerate(settings.working_sets_bytes):
            progress("bandwidth of the memory", index, len(settings.working_sets_bytes))
            found.append(_bandwidth(pool, working_set_bytes, settings))
            progress("bandwidth of the memory", index + 1, len(settings.working_sets_bytes))
    return tuple(found)


def _bandwidth(pool: ThreadPoolExecutor, working_set_bytes: int, settings: CeilingSettings) -> Bandwidth:
    share_bytes = working_set_bytes // (2 * settings.threads)
    copies = max(1, _COPIES_MIN_BYTES // working_set_bytes)
    pairs = [(np.ones(share_bytes, np.uint8), np.zeros(share_bytes, np.uint8)) for _ in range(settings.threads)]
    start = threading.Barrier(settings.threads)
    end_s, best_s, runs = time.perf_counter() + settings.seconds, float("inf"), 0
    while runs < _RUNS_MIN or time.perf_counter() < end_s:
        spans = list(pool.map(lambda pair: _copied(pair, copies, start), pairs))
        # From the first that starts to the last that ends: threads that don't overlap share nothing.
        best_s = min(best_s, max(end for _, end in spans) - min(begin for begin, _ in spans))
        runs += 1
    moved_bytes = 2 * share_bytes * settings.threads * copies
    return Bandwidth(working_set_bytes=2 * share_bytes * settings.threads, gb_per_s=moved_bytes / best_s / 1e9)


def _copied(
    pair: tuple[NDArray[np.uint8], NDArray[np.uint8]], copies: int, start: threading.Barrier
) -> tuple[float, float]:
    source, destination = pair
    start.wait()
    begin_s = time.perf_counter()
    for _ in range(copies):
        np.copyto(destination, source)
    return begin_s, time.perf_counter()
