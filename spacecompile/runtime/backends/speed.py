"""What is fastest on which CPU: a table of measurements, so that `auto` chooses without a race.

A race at load would delay the first answer, and beside other load it could end differently each time; so could the
answers then, by rounding.

Measured 2026-11-24 on one core of a Xeon with AVX-512 and AMX: reference network, 1024x1024 frame, plain variant, ONNX
Runtime 1.32, OpenVINO 2026.4, CPU time per frame over that of ONNX Runtime with the fp32 file in the same round
(medians of 8 to 20 rounds, quartiles within 10 %). Lesser CPUs are the same one with OpenVINO held to their instruction
set (`ONEDNN_MAX_CPU_ISA`); ONNX Runtime can't be held back, so there the true ratio is lower. The fp16 and int8 files
came from ONNX Runtime's own converters. D4: 0.79 in fp32, 0.39 in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass

from spacecompile.contract import Precision


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One measurement.

    Attributes:
        precision: Precision of the variant.
        backend: Name of the backend that ran the variant.
        needs: Kernel's name of the feature that a CPU must have for the row to hold; None for a row that holds on any.
        ratio: Time per frame over that of ONNX Runtime with the fp32 variant.
    """

    precision: Precision
    backend: str
    needs: str | None
    ratio: float


SPEEDS = (
    Speed(precision="fp32", backend="onnxruntime", needs=None, ratio=1.0),
    # Held to AVX2, OpenVINO took 1.13 times as long as ONNX Runtime with AVX-512: undecided, so no row.
    Speed(precision="fp32", backend="openvino", needs="avx512f", ratio=0.83),
    Speed(precision="fp16", backend="openvino", needs="avx512f", ratio=0.79),
    Speed(precision="fp16", backend="onnxruntime", needs="avx512f", ratio=1.59),
    Speed(precision="bf16", backend="openvino", needs="amx_bf16", ratio=0.51),
    # Without AMX bf16 is no gain, and with plain AVX-512 it is emulated: 7.8.
    Speed(precision="bf16", backend="openvino", needs="avx512_bf16", ratio=1.11),
    Speed(precision="int8", backend="openvino", needs="amx_int8", ratio=0.57),
    Speed(precision="int8", backend="openvino", needs="avx512_vnni", ratio=0.60),
    Speed(precision="int8", backend="onnxruntime", needs="avx512_vnni", ratio=1.54),
)
"""Rows of one precision and backend follow each other with the better CPU first."""


def measured_ratio(precision: Precision, backend: str, features: frozenset[str]) -> float | None:
    """Time per frame over that of ONNX Runtime with the fp32 variant; None where it was not measured.

    Args:
        precision: Precision of the variant.
        backend: Name of the backend.
        features: Features of the CPU, as `cpu_features` gives them.
    """
    rows = (row for row in SPEEDS if (row.precision, row.backend) == (precision, backend))
    return next((row.ratio for row in rows if row.needs is None or row.needs in features), None)
