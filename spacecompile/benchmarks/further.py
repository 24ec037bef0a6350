"""What a bench measures beyond latency and scores: limits, layers, scaling. Each needs the `compile` extra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import UNSET, UnsetType

from spacecompile.benchmarks.contest import Contest
from spacecompile.benchmarks.frames import FrameStream
from spacecompile.benchmarks.limit_records import LimitReport
from spacecompile.benchmarks.scaling_records import ScalingReport
from spacecompile.benchmarks.variants import Entrant, no_onnx
from spacecompile.contract import Progress
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.extras import require_extra
from spacecompile.runtime.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class FurtherSettings:
    """What of it to measure.

    Attributes:
        duration_s: Of the latency run: these measurements take a share of it.
        threads: Of every engine.
        spinning: Whether idle threads wait busily.
        roofline: Measure the machine's limits and the share of them that each variant reaches.
        profile: Time every layer, which needs the limits.
        scaling: Build and measure other sizes too.
    """

    duration_s: float
    threads: int
    spinning: bool
    roofline: bool = True
    profile: bool = False
    scaling: bool = False


@dataclass(kw_only=True)
class Further:
    """What was measured so far."""

    roofline: LimitReport | UnsetType = UNSET
    roofline_note: str | UnsetType = UNSET
    scaling: ScalingReport | UnsetType = UNSET


def measure_roofline(
    bundle: Bundle,
    asked: Sequence[Entrant],
    contest: Contest,
    stream: FrameStream,
    settings: FurtherSettings,
    further: Further,
    *,
    progress: Progress,
) -> None:
    """Measure limits, where they are asked for.

    Args:
        bundle: Verified.
        asked: Variants on their engines, that can run here.
        contest: Of the latency run, which chose the engines.
        stream: Frames to run on.
        settings: What.
        further: Filled variant by variant, so that an interrupt keeps what is done.
        progress: Told each step.

    Raises:
        SpacecompileError: If a graph can't be read.
    """
    if not asked or not (settings.roofline or settings.profile):
        return
    try:
        require_extra("compile", "the roofline, which reads graphs,")
    except MissingPartError as error:
        further.roofline_note = str(error)
        return
    # It reads ONNX files, which a machine that only runs bundles can't.
    from spacecompile.benchmarks.limits import limit_settings, measure_limits  # noqa: PLC0415

    def keep(report: LimitReport) -> None:
        further.roofline = report

    how = limit_settings(
        threads=settings.threads, spinning=settings.spinning, profile=settings.profile, duration_s=settings.duration_s
    )
    engines = {name: engine.name for name, engine in contest.engines.items()}
    further.roofline = measure_limits(bundle, asked, engines, stream.frames_HWC, how, keep=keep, progress=progress)


def measure_sizes(
    bundle: Bundle,
    asked: Sequence[Entrant],
    contest: Contest,
    settings: FurtherSettings,
    further: Further,
    *,
    sizes: Path | None,
    progress: Progress,
) -> None:
    """Measure scaling, where it is asked for.

    Args:
        bundle: Verified.
        asked: Variants on their engines, that can run here; the first with an ONNX file lends its engine.
        contest: Of the latency run, which chose the engines.
        settings: What.
        further: Filled curve by curve, so that an interrupt keeps what is done.
        sizes: The bundle's checkpoint, to build other sizes from; None to leave scaling out.
        progress: Told each step.

    Raises:
        SpacecompileError: If the checkpoint can't be read.
        UsageError: If no variant has an engine that other sizes could be built for.
    """
    if sizes is None or not asked:
        return
    require_extra("compile", "scaling, which builds other sizes,")
    subject = next((entrant for entrant in asked if no_onnx(entrant.variant) is None), None)
    if subject is None:
        raise UsageError("scaling builds ONNX files, and no variant that runs here is one. Name one with --variant.")
    from spacecompile.benchmarks.scaling import measure_scaling, scaling_settings  # noqa: PLC0415

    def keep(report: ScalingReport) -> None:
        further.scaling = report

    further.scaling = measure_scaling(
        sizes,
        bundle.manifest.spec,
        subject.variant,
        backend=contest.engines[subject.name].name,
        settings=scaling_settings(threads=settings.threads, spinning=settings.spinning, duration_s=settings.duration_s),
        keep=keep,
        progress=progress,
    )
