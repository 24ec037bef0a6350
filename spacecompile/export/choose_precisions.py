"""The step of a build that decides by measurement what fp16 and int8 files may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from spacecompile.contract import Precision, Progress, Tta
from spacecompile.errors import UsageError
from spacecompile.export.build_report import Clock
from spacecompile.export.parity.certificate import backends_of, fresh_file, judge
from spacecompile.export.parity.frame_set import ParityFrame, calibration_frames
from spacecompile.export.parity.reference import ExpectedAnswer
from spacecompile.export.parity.score_drop import Scoring
from spacecompile.export.plan import BuildPlan
from spacecompile.export.precision.files import HalfReport, Int8Report, PrecisionPlans, PrecisionReport
from spacecompile.export.precision.half import HalfPlan, plan_half
from spacecompile.export.precision.magnitude import largest_magnitudes
from spacecompile.export.precision.search import Int8Plan, in_int8, plan_int8
from spacecompile.runtime.threads import usable_cores

MEASURED: Final[tuple[Precision, ...]] = ("fp16", "int8")
"""Precisions whose files depend on what calibration frames show."""


def planned_precisions(
    plan: BuildPlan,
    models: Mapping[Tta, ModelProto],
    expected: Mapping[Tta, Sequence[ExpectedAnswer]],
    *,
    scoring: Scoring,
    clock: Clock,
    progress: Progress,
) -> tuple[PrecisionPlans, PrecisionReport]:
    """Decide for the precisions that a build has.

    Args:
        plan: Plan of the build.
        models: float32 graph of each augmentation, the plain one among them where a precision is measured.
        expected: PyTorch's answers by augmentation.
        scoring: Classes and cost for the score in the parity gate of int8.
        clock: Clock that times the steps.
        progress: Callback for progress.

    Returns:
        The plans, and the report without the files' facts.

    Raises:
        UsageError: If there is no frame to calibrate on.
        ParityError: If no layer can be int8.
    """
    asked = [precision for precision in MEASURED if any(variant.precision == precision for variant in plan.variants)]
    if not asked:
        return PrecisionPlans(), PrecisionReport(files={})
    frames = _calibration_frames(plan, clock, progress)
    frames_HWC = [frame.frame_HWC for frame in frames]
    names = tuple(frame.name for frame in frames)
    half = _half(models["none"], frames_HWC, clock, progress) if "fp16" in asked else None
    int8 = None
    if "int8" in asked:
        int8 = _int8(plan, models, frames_HWC, expected, scoring=scoring, clock=clock, progress=progress)
    report = PrecisionReport(
        files={},
        fp16=None
        if half is None
        else HalfReport(
            float_nodes=tuple(half.float_nodes[position] for position in sorted(half.float_nodes)),
            magnitude_max=half.magnitude_max,
            calibration_frames=names,
        ),
        int8=None
        if int8 is None
        else Int8Report(int8=int8.int8, raised=int8.raised, gate_runs=int8.gate_runs, calibration_frames=names),
    )
    return PrecisionPlans(half=half, int8=int8), report


def _calibration_frames(plan: BuildPlan, clock: Clock, progress: Progress) -> tuple[ParityFrame, ...]:
    with clock.step("calibration frames") as step:
        frames = calibration_frames(
            plan.spec.frame_size_px,
            data=plan.data,
            parity_count=plan.options.parity_frames,
            count=plan.options.calibration_frames,
            progress=progress,
        )
        step.note = f"{len(frames)} frames"
    if not frames:
        raise UsageError(
            "fp16 and int8 are calibrated on frames, and there is none. Give some with --data DIR, or install the "
            "render extra: pip install 'spacecompile[render]'."
        )
    return frames


def _half(model: ModelProto, frames_HWC: Sequence[NDArray[np.uint8]], clock: Clock, progress: Progress) -> HalfPlan:
    with clock.step("measure fp16") as step:
        largest = largest_magnitudes(model, frames_HWC, threads=usable_cores(), progress=progress)
        plan = plan_half(model, largest)
        step.note = (
            f"largest value in the network {plan.magnitude_max:.4g} of 65504, {len(plan.float_nodes)} of "
            f"{len(plan.ops)} nodes stay float32"
        )
    return plan


def _int8(
    plan: BuildPlan,
    models: Mapping[Tta, ModelProto],
    frames_HWC: Sequence[NDArray[np.uint8]],
    expected: Mapping[Tta, Sequence[ExpectedAnswer]],
    *,
    scoring: Scoring,
    clock: Clock,
    progress: Progress,
) -> Int8Plan:
    # Plain first: it costs an eighth, and where it fails the rest need not run.
    variants = sorted(
        (variant for variant in plan.variants if variant.precision == "int8"), key=lambda variant: variant.tta != "none"
    )

    def gate(candidate: Int8Plan) -> Sequence[str]:
        for variant in variants:
            with fresh_file(variant.name):
                judged = judge(
                    variant,
                    in_int8(models[variant.tta], candidate).SerializeToString(),
                    expected[variant.tta],
                    entry=backends_of(variant)[0],
                    scoring=scoring,
                    threads=usable_cores(),
                    progress=progress,
                )
            if judged.verdict.failures:
                return judged.verdict.failures
        return ()

    with clock.step("measure int8") as step:
        found = plan_int8(models["none"], frames_HWC, gate=gate, threads=usable_cores(), progress=progress)
        step.note = (
            f"{len(found.int8)} layers int8, {len(found.raised)} back to float32, parity asked {found.gate_runs} times"
        )
    return found
