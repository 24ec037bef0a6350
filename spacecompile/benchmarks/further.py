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
from spacecompile.benchmarks.variants import Entrant
from spacecompile.contract import Progress
from spacecompile.errors import MissingPartError
from spacecompile.extras import require_extra
from spacecompile.runtime.bundle import Bundle


@dataclass(frozen=True, kw_only=True)
class FurtherSettings:
    """What of it to measure.

    Attributes:
        duration_s: Of the latency run: these measurements take a share of it.
        threads: Of every engine.
        spinning: Whether idle threads wait busily.
        profile: Time every layer.
        scaling: Build and measure other sizes too.
    """

    duration_s: float
    threads: int
    spinning: bool
    profile: bool = False
    scaling: bool = False


@dataclass(kw_only=True)
class Further:
    """What was measured so far."""

    roofline: LimitReport | UnsetType = UNSET
    roofline_note: str | UnsetType = UNSET
    scaling: ScalingReport | UnsetType = UNSET


def measure_further(
    bundle: Bundle,
    asked: Sequence[Entrant],
    contest: Contest,
    stream: FrameStream,
    settings: FurtherSettings | None,
    further: Further,
    *,
    sizes: Path | None,
    progress: Progress,
) -> None:
    """Measure limits, and scaling where it is asked for.

    Args:
        bundle: Verified.
        asked: Variants on their engines, that can run here.
        contest: Of the latency run, which chose the engines.
        stream: Frames to run on.
        settings: What; None for nothing.
        further: Filled step by step, so that an interrupt keeps what is done.
        sizes: The bundle's checkpoint, to build other sizes from; None to leave scaling out.
        progress: Told each step.

    Raises:
        SpacecompileError: If a graph can't be read, or built at another size.
    """
    if settings is None or not asked:
        return
    try:
        require_extra("compile", "the roofline, which reads graphs,")
    except MissingPartError as error:
        further.roofline_note = str(error)
        return
    # Both read ONNX files, which a machine that only runs bundles can't.
    from spacecompile.benchmarks.limits import limit_settings, measure_limits  # noqa: PLC0415

    engines = {name: engine.name for name, engine in contest.engines.items()}
    how = limit_settings(
        threads=settings.threads, spinning=settings.spinning, profile=settings.profile, duration_s=settings.duration_s
    )
    further.roofline = measure_limits(bundle, asked, engines, stream.frames_HWC, how, progress=progress)
    if sizes is not None:
        from spacecompile.benchmarks.scaling import measure_scaling, scaling_settings  # noqa: PLC0415

        further.scaling = measure_scaling(
            sizes,
            bundle.manifest.spec,
            asked[0].variant,
            backend=engines[asked[0].name],
            settings=scaling_settings(
                threads=settings.threads, spinning=settings.spinning, duration_s=settings.duration_s
            ),
            progress=progress,
        )
