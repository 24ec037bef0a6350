from __future__ import annotations

from typing import get_args

import pytest

from spacecompile.contract import Precision
from spacecompile.runtime.backends.registry import BACKENDS
from spacecompile.runtime.backends.speed import SPEEDS, measured_ratio

XEON = frozenset({"avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"})


@pytest.mark.parametrize(
    ("precision", "backend", "features", "expected"),
    [
        ("fp32", "onnxruntime", frozenset(), 1.0),
        ("fp32", "openvino", XEON, 0.83),
        ("fp32", "openvino", frozenset({"avx2"}), None),
        ("bf16", "openvino", XEON, 0.51),
        ("bf16", "openvino", XEON - {"amx_bf16"}, 1.11),
        ("bf16", "openvino", frozenset({"avx512f"}), None),
        ("bf16", "onnxruntime", XEON, None),
    ],
    ids=[
        *("fp32 everywhere", "fp32 on a Xeon", "fp32 with AVX2", "bf16 with AMX"),
        *("bf16 without AMX", "bf16 emulated", "bf16 in ONNX Runtime"),
    ],
)
def test_the_row_of_the_better_cpu_counts_and_the_rest_is_unknown(
    precision: Precision, backend: str, features: frozenset[str], expected: float | None
) -> None:
    assert measured_ratio(precision, backend, features) == expected


def test_every_row_is_of_a_backend_that_computes_its_precision_and_can_be_reached() -> None:
    computed = {(entry.name, precision) for entry in BACKENDS if not entry.on_gpu for precision in entry.precisions}
    assert {(row.backend, row.precision) for row in SPEEDS} == computed
    assert {row.precision for row in SPEEDS} == set(get_args(Precision))
    for row in SPEEDS:
        features = frozenset({row.needs} if row.needs else ())
        assert measured_ratio(row.precision, row.backend, features) == row.ratio
