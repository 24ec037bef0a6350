"""What the project promises of a GPU of the H200's class at batch 1, and whether a proof keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spacecompile.benchmarks.latency.records import Latency, Ratio
from spacecompile.benchmarks.proof.records import Memory, ProvenParity, Soak, Target

FASTER_THAN_PEERS = 1.3
D4_TIMES_MAX = 3.0
DEVICE_SHARE_MAX = 0.6

_FP16 = "fp16@onnxruntime-cuda"
_FP16_D4 = "fp16-d4@onnxruntime-cuda"
_PEERS = {
    "cuda-onnxruntime": "the plain export on ONNX Runtime CUDA with host pre- and post-processing",
    "cuda-compile-max-autotune": "torch.compile in fp16",
}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the targets are judged by; see `Proof`."""

    latency: Mapping[str, Mapping[str, Latency]]
    ratios: Mapping[str, Mapping[str, Ratio]]
    parity: Sequence[ProvenParity]
    memory: Mapping[str, Memory]
    soak: Mapping[str, Soak]


def targets_of(findings: Findings) -> tuple[Target, ...]:
    """Every promise, in order, measured or not."""
    return (
        *(_faster_than(findings, peer, text) for peer, text in _PEERS.items()),
        _share(
            f"D4 takes at most {D4_TIMES_MAX:g} times the time of the plain variant (fp16, ONNX Runtime CUDA)",
            _median(findings, "app", _FP16_D4),
            _median(findings, "app", _FP16),
            D4_TIMES_MAX,
        ),
        _share(
            f"from the GPU to the GPU takes at most {DEVICE_SHARE_MAX:g} of the time from host to host (fp16)",
            _median(findings, "device", _FP16),
            _median(findings, "app", _FP16),
            DEVICE_SHARE_MAX,
        ),
        _at_most(
            "no memory of the GPU is allocated after warm-up (most bytes of a session)",
            [float(memory.soak_bytes) for name, memory in findings.memory.items() if name in findings.soak],
            0.0,
        ),
        _at_most(
            "a frame's answer is the same, bit for bit, whenever it is asked (most differing answers of a session)",
            [float(soak.differing) for soak in findings.soak.values()],
            0.0,
        ),
        _at_most(
            "every variant answers like PyTorch, on the GPU and on the CPU (verdicts that failed)",
            [float(sum(not proven.verdict.passed for proven in findings.parity))] if findings.parity else [],
            0.0,
        ),
    )


def _faster_than(findings: Findings, peer: str, text: str) -> Target:
    promise = f"sealed fp16 on ONNX Runtime CUDA is at least {FASTER_THAN_PEERS} times as fast as {text}"
    ratio = findings.ratios.get(_FP16, {}).get(peer)
    if ratio is None:
        missing = f"{_FP16} and {peer} did not meet in one round"
        return Target(promise=promise, measured=None, held=None, missing=missing)
    times = 1 / ratio.ratio
    return Target(promise=promise, measured=times, held=times >= FASTER_THAN_PEERS)


def _median(findings: Findings, scope: str, name: str) -> float | None:
    latency = findings.latency.get(scope, {}).get(name)
    return None if latency is None else latency.p50_ms


def _share(promise: str, above_ms: float | None, below_ms: float | None, limit: float) -> Target:
    if above_ms is None or below_ms is None:
        return Target(promise=promise, measured=None, held=None, missing="one of the two has no median")
    return Target(promise=promise, measured=above_ms / below_ms, held=above_ms / below_ms <= limit)


def _at_most(promise: str, values: Sequence[float], limit: float) -> Target:
    if not values:
        return Target(promise=promise, measured=None, held=None, missing="not run")
    return Target(promise=promise, measured=max(values), held=max(values) <= limit)
