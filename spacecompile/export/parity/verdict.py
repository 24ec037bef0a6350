"""The parity certificate: what a file on disk answers, against what PyTorch answers, frame by frame.

The reference is the sealed graph around the network as it came from the checkpoint, before any rewrite, in eager
PyTorch. The file is run from its bytes through the runtime's own backends. So the certificate covers rewriting,
export, simplification and the engine at once, from raw frame to final answer.

Layout legend: H, W frame rows and columns; C channels (RGB); L classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import HEALTH_SIGNALS, PARTS, Progress, Tolerance, no_progress
from spacecompile.errors import ParityError, UsageError
from spacecompile.export.parity.reference import ExpectedAnswer
from spacecompile.export.parity.score_drop import Scoring, score_drop_of
from spacecompile.metrics import parts_iou
from spacecompile.record import Record
from spacecompile.runtime.backend import Backend, RawAnswer
from spacecompile.runtime.guard import health_by_name, impossible_output

_NOT_A_NUMBER_ERROR = 1e30
"""Stands for the error of a NaN or an infinity: JSON has neither."""


class ErrorStats(Record):
    """Absolute error of one output over all frames: largest, mean, and 99.9th percentile."""

    max: float
    mean: float
    p999: float


class FrameParity(Record):
    """How far two answers to one frame are apart.

    Attributes:
        frame, kind: Name and kind of the frame.
        class_agrees: Whether both name the same class.
        unsound: Output that no sound graph gives on any frame, in words; empty for a sound answer.
        class_probs_error: Largest absolute error of a class probability.
        parts_iou: IoU of each part, 1 for two empty masks. Pixels that float32 does not decide, see `LOGIT_BAND`, count
            as the same.
        parts_differing_px: Number of pixels whose part bits differ, undecided ones too.
        box_error_px: Largest distance of a box edge from the edges that the threshold's band allows, see `LOGIT_BAND`;
            where no logit lies in the band, that is the plain error.
        box_plain_error_px: Largest absolute error of a box edge.
    """

    frame: str
    kind: str
    class_agrees: bool
    unsound: str
    class_probs_error: float
    parts_iou: tuple[float, ...]
    parts_differing_px: int
    box_error_px: float
    box_plain_error_px: float


class VariantParity(Record):
    """The verdict on one file.

    Attributes:
        variant: Name of the variant.
        backend: Backend that ran the file, with its version.
        sha256: SHA-256 of the file that was judged.
        tolerance: Limits that the file was judged by.
        passed: Whether every limit holds.
        failures: One sentence per broken limit, with the frame that breaks it most.
        num_frames: Number of frames per kind.
        class_agreement: Share of the judged frames with the same class.
        class_probs_max, parts_iou_min, box_px_max: The worst value of each measure on the judged frames; the box on the
            share of them that the tolerance asks for.
        parts_iou_mean: Mean over the judged frames and parts.
        score_drop: S_final of PyTorch less that of the file, over the frames that have labels; None without any.
        worst_frames: Judged frame with the worst value of each measure, by `class_probs`, `parts_iou` and `box_px`.
        outputs: Error of each output; `parts` counts 1 per differing pixel, health is listed signal by signal.
        frames: Every frame, in the order in which it ran.
    """

    variant: str
    backend: str
    sha256: str
    tolerance: Tolerance
    passed: bool
    failures: tuple[str, ...]
    num_frames: dict[str, int]
    class_agreement: float
    class_probs_max: float
    parts_iou_min: float
    parts_iou_mean: float
    box_px_max: float
    score_drop: float | None
    worst_frames: dict[str, str]
    outputs: dict[str, ErrorStats]
    frames: tuple[FrameParity, ...]


class ParityReport(Record):
    """`reports/parity.json`. It holds no time and no path, so that a repeated build gives the same bytes.

    Attributes:
        reference: Name of what gave the reference answers.
        backend: Backends that ran the files, with their versions.
        backend_threads, reference_threads: Number of threads per operator; other counts sum in another order.
        variants: One verdict per file and backend; the first of a variant is the one that it ships by.
    """

    reference: str
    backend: str
    reference_threads: int
    backend_threads: int
    variants: tuple[VariantParity, ...]


def check_parity(
    variant: str,
    backend: Backend,
    expected: Sequence[ExpectedAnswer],
    *,
    sha256: str,
    tolerance: Tolerance,
    scoring: Scoring | None = None,
    progress: Progress = no_progress,
) -> VariantParity:
    """Judge one file on one backend.

    Args:
        variant: Name of the variant.
        backend: Backend that holds the file as read from the disk; the caller closes it.
        expected: At least one answer of `expected_answers` with the variant's test-time augmentation.
        sha256: SHA-256 of the file.
        tolerance: Limits to judge by.
        scoring: Classes and cost for the drop of the score; None to judge no drop.
        progress: Callback for progress.

    Raises:
        IntegrityError: If the engine fails on the file.
    """
    given = []
    for done, case in enumerate(expected, start=1):
        given.append(backend.run(case.frame.frame_HWC))
        progress(f"parity {variant}, {backend.name}", done, len(expected))
    return verdict_on(
        variant,
        backend=f"{backend.name} {backend.version}",
        sha256=sha256,
        expected=expected,
        given=given,
        tolerance=tolerance,
        scoring=scoring,
    )


def require_parity(verdict: VariantParity, *, report: str | None = None) -> None:
    """Refuse a file that failed.

    Args:
        verdict: Verdict on the file.
        report: Place where the verdict was left, for the message.

    Raises:
        ParityError: If the file failed; names every broken limit and the frame that breaks it most.
    """
    if not verdict.passed:
        left = f" The verdict and a picture of the worst frame are in {report}." if report else ""
        raise ParityError(
            f"variant {verdict.variant} on {verdict.backend} answers differently from PyTorch: "
            f"{'; '.join(verdict.failures)}. No bundle was written.{left} Build with --no-rewrite to see whether a "
            "rewrite or the export is the cause."
        )


def verdict_on(
    variant: str,
    *,
    backend: str,
    sha256: str,
    expected: Sequence[ExpectedAnswer],
    given: Sequence[RawAnswer],
    tolerance: Tolerance,
    scoring: Scoring | None = None,
) -> VariantParity:
    """Compare answers frame by frame.

    Args:
        variant: Name of the variant.
        backend: Name and version of the backend that ran the file.
        sha256: SHA-256 of the file.
        expected: PyTorch's answers, at least one.
        given: Answers of the file, one per expected answer.
        tolerance: Limits to judge by.
        scoring: Classes and cost for the drop of the score; None to judge no drop.
    """
    pairs = list(zip(expected, given, strict=True))
    frames = tuple(_frame_parity(case, answer) for case, answer in pairs)
    kinds = [frame.kind for frame in frames]
    judged = [frame for frame in frames if tolerance.adversarial or frame.kind != "adversarial"]
    measures = _measures(judged, tolerance)
    score_drop = score_drop_of(pairs, scoring) if scoring else None
    failures = _failures(frames, judged, measures, score_drop, tolerance)
    return VariantParity(
        variant=variant,
        backend=backend,
        sha256=sha256,
        tolerance=tolerance,
        passed=not failures,
        failures=failures,
        num_frames={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        class_agreement=measures.class_agreement,
        class_probs_max=measures.class_probs.class_probs_error,
        parts_iou_min=min(measures.parts.parts_iou),
        parts_iou_mean=measures.parts_iou_mean,
        box_px_max=measures.box.box_error_px,
        score_drop=score_drop,
        worst_frames=measures.worst_frames(),
        outputs=_output_errors(pairs),
        frames=frames,
    )


@dataclass(frozen=True, kw_only=True)
class _Measures:
    """The judged frames in a few numbers, and for each measure the frame that decides it."""

    class_agreement: float
    parts_iou_mean: float
    class_probs: FrameParity
    parts: FrameParity
    box: FrameParity

    def worst_frames(self) -> dict[str, str]:
        return {"class_probs": self.class_probs.frame, "parts_iou": self.parts.frame, "box_px": self.box.frame}


def _measures(judged: Sequence[FrameParity], tolerance: Tolerance) -> _Measures:
    if not judged:
        raise UsageError(
            "this precision is judged on frames that a camera takes, and there is none. Give some with --data DIR, or "
            "install the render extra: pip install 'spacecompile[render]'."
        )
    by_box = sorted(judged, key=lambda frame: frame.box_error_px)
    held = math.ceil(tolerance.box_share_min * len(judged))
    return _Measures(
        class_agreement=sum(frame.class_agrees for frame in judged) / len(judged),
        parts_iou_mean=float(np.mean([frame.parts_iou for frame in judged])),
        class_probs=max(judged, key=lambda frame: frame.class_probs_error),
        parts=min(judged, key=lambda frame: min(frame.parts_iou)),
        box=by_box[max(held, 1) - 1],
    )


def _frame_parity(case: ExpectedAnswer, given: RawAnswer) -> FrameParity:
    expected = case.answer
    differing_HW = expected.parts_HW ^ given.parts_HW
    decided_HW = given.parts_HW ^ (differing_HW & case.undecided_HW)
    nearest_xyxy = np.clip(given.box_xyxy, case.boxes_B4.min(axis=0), case.boxes_B4.max(axis=0))
    return FrameParity(
        frame=case.frame.name,
        kind=case.frame.kind,
        class_agrees=bool(expected.class_probs_L.argmax() == given.class_probs_L.argmax()),
        unsound=unsound(given, expected),
        class_probs_error=float(_errors(expected.class_probs_L, given.class_probs_L).max()),
        parts_iou=parts_iou(decided_HW, expected.parts_HW),
        parts_differing_px=int(np.count_nonzero(differing_HW)),
        box_error_px=float(_errors(nearest_xyxy, given.box_xyxy).max()),
        box_plain_error_px=float(_errors(expected.box_xyxy, given.box_xyxy).max()),
    )


def _errors(expected: NDArray[np.float32], given: NDArray[np.float32]) -> NDArray[np.float64]:
    """Absolute errors; a value that is not a number counts as `_NOT_A_NUMBER_ERROR`."""
    errors = np.abs(expected.astype(np.float64) - given)
    return np.nan_to_num(errors, nan=_NOT_A_NUMBER_ERROR, posinf=_NOT_A_NUMBER_ERROR)


def _failures(
    frames: Sequence[FrameParity],
    judged: Sequence[FrameParity],
    measures: _Measures,
    score_drop: float | None,
    tolerance: Tolerance,
) -> tuple[str, ...]:
    failures = []
    if measures.class_agreement < tolerance.class_agreement_min:
        disagreeing = next(frame for frame in judged if not frame.class_agrees)
        failures.append(
            f"the class agrees on {measures.class_agreement:.2%} of the frames "
            f"(least {tolerance.class_agreement_min:.2%}), not on {disagreeing.frame}"
        )
    if broken := [frame for frame in frames if frame.unsound]:
        failures.append(f"the file puts out {broken[0].unsound} on {broken[0].frame}")
    probs, parts, box = measures.class_probs, measures.parts, measures.box
    if probs.class_probs_error > tolerance.class_probs_max:
        failures.append(
            f"a class probability is off by {probs.class_probs_error:.2g} (most {tolerance.class_probs_max:g}) "
            f"on {probs.frame}"
        )
    if min(parts.parts_iou) < tolerance.parts_iou_min:
        failures.append(
            f"a part has IoU {min(parts.parts_iou):.4f} (least {tolerance.parts_iou_min:g}), "
            f"{parts.parts_differing_px} pixels differ, on {parts.frame}"
        )
    if measures.parts_iou_mean < tolerance.parts_iou_mean_min:
        failures.append(
            f"parts have a mean IoU of {measures.parts_iou_mean:.4f} (least {tolerance.parts_iou_mean_min:g})"
        )
    if box.box_error_px > tolerance.box_px_max:
        share = f" of {tolerance.box_share_min:.0%} of the frames" if tolerance.box_share_min < 1 else ""
        failures.append(
            f"a box edge{share} is off by {box.box_error_px:.2f} px (most {tolerance.box_px_max:g}) on {box.frame}"
        )
    worst_px = max(frame.box_error_px for frame in judged)
    if tolerance.box_px_worst is not None and worst_px > tolerance.box_px_worst:
        failures.append(f"a box edge is off by {worst_px:.2f} px (most {tolerance.box_px_worst:g} on any frame)")
    if score_drop is not None and tolerance.score_drop_max is not None and score_drop > tolerance.score_drop_max:
        failures.append(f"S_final drops by {score_drop:.4f} (most {tolerance.score_drop_max:g})")
    return tuple(failures)


def _output_errors(pairs: Sequence[tuple[ExpectedAnswer, RawAnswer]]) -> dict[str, ErrorStats]:
    def stacked(name: str) -> NDArray[np.float64]:
        return np.stack([_errors(getattr(case.answer, name), getattr(given, name)) for case, given in pairs])

    health_NS = stacked("health")
    share = float(np.mean([np.mean(case.answer.parts_HW != given.parts_HW) for case, given in pairs]))
    return {
        "class_probs": _stats(stacked("class_probs_L")),
        # Errors of one bit per pixel are 0 or 1, so the share of ones says all.
        "parts": ErrorStats(max=float(share > 0), mean=share, p999=float(share > 0.001)),
        "box_xyxy": _stats(stacked("box_xyxy")),
        **{f"health.{signal}": _stats(health_NS[:, index]) for index, signal in enumerate(HEALTH_SIGNALS)},
    }


def _stats(errors: NDArray[np.float64]) -> ErrorStats:
    # "higher" takes a value that occurred, and does not interpolate between infinities.
    p999 = float(np.quantile(errors, 0.999, method="higher"))
    return ErrorStats(max=float(errors.max()), mean=float(errors.mean()), p999=p999)


def unsound(given: RawAnswer, expected: RawAnswer) -> str:
    """What the given answer has that no sound graph puts out, by itself or beside PyTorch's; empty if nothing."""
    height_px, width_px = given.parts_HW.shape
    impossible = impossible_output(given, (height_px, width_px))
    if impossible is not None:
        return impossible
    health, expected_health = health_by_name(given), health_by_name(expected)
    counted_px = {f"{part}_px": int(np.count_nonzero(given.parts_HW >> bit & 1)) for bit, part in enumerate(PARTS)}
    wrong = [name for name, count_px in counted_px.items() if abs(health[name] - count_px) > 1]
    wrong += [name for name in ("part_confidence", "view_disagreement") if not -1e-3 <= health[name] <= 1 + 1e-3]
    # Of the frame itself: the same in every precision.
    wrong += [name for name in ("frame_mean", "frame_max") if abs(health[name] - expected_health[name]) > 1]
    return f"{wrong[0]} {health[wrong[0]]:g}, which its own parts or the frame contradict" if wrong else ""
