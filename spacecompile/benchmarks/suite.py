"""The whole benchmark of one bundle, in the order of the results file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from spacecompile._version import __version__
from spacecompile.benchmarks.budget import check_budget
from spacecompile.benchmarks.checkpoints import check_checkpoint, find_checkpoint
from spacecompile.benchmarks.contest import Contest, ContestSettings, run_contest
from spacecompile.benchmarks.environment import load_average, read_environment
from spacecompile.benchmarks.frames import FrameStream, labelled_frames, stream_from_bundle, stream_from_data
from spacecompile.benchmarks.further import Further, FurtherSettings, measure_further
from spacecompile.benchmarks.records import BenchResult, Configuration, ScoreReport, Subject
from spacecompile.benchmarks.score import check_frames, evaluate
from spacecompile.benchmarks.summary import NOISY_VARIATION
from spacecompile.benchmarks.variants import SLOW_EVERY, LoadSettings, answered_from_answer
from spacecompile.contract import Budget, Manifest, Progress, Variant, no_progress
from spacecompile.data.spark import LabelledFrame
from spacecompile.errors import IntegrityError, UsageError
from spacecompile.metrics import Scores
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.session import load
from spacecompile.runtime.threads import usable_processors

PARITY_PATH = "reports/parity.json"

NO_DATA = "Not measured: give labelled frames in the SPARK format with --data DIR"
NO_PEERS = "left out on request"


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What to measure, and how.

    Attributes:
        contest: Latency.
        budget: Limits.
        variants: Names; all of the bundle when empty.
        data: Labelled frames for scores and for the latency stream; None for the bundle's self-test frames.
        split: Of `data`.
        score_limit: Frames to score; None for all.
        stream_frames: Different frames of the latency run at most.
        peers: Whether the peers take part.
        checkpoint: With the bundle's source weights; None to look for it.
        limits: Roofline, layers and scaling; None to leave them out.
    """

    contest: ContestSettings
    budget: Budget = field(default_factory=Budget)
    variants: tuple[str, ...] = ()
    data: Path | None = None
    split: str = "val"
    score_limit: int | None = None
    stream_frames: int = 16
    peers: bool = True
    checkpoint: Path | None = None
    limits: FurtherSettings | None = None


@dataclass(frozen=True, kw_only=True)
class BenchRun:
    """A result and the pictures' raw material.

    Attributes:
        result: For the results file.
        samples: Frames with their answers.
    """

    result: BenchResult
    samples: tuple[tuple[NDArray[np.uint8], Answer], ...]


@dataclass(kw_only=True)
class _Draft:
    """What is known so far, valid at any moment."""

    contest: Contest = field(default_factory=Contest)
    stream: FrameStream | None = None
    scores: dict[str, Scores] = field(default_factory=dict)
    further: Further = field(default_factory=Further)
    partial: bool = False


def run_bench(bundle: Bundle, settings: BenchSettings, *, progress: Progress = no_progress) -> BenchRun:
    """Measure a bundle. Interrupted, it returns what it has, marked as partial.

    Args:
        bundle: With every hash checked.
        settings: What and how.
        progress: Told each step.

    Raises:
        SpacecompileError: If an input can't be used; nothing was measured then.
    """
    variants = _chosen_variants(bundle, settings.variants)
    labelled = _labelled(bundle, settings)
    checkpoint = _checkpoint_for_peers(bundle, settings)
    checkpoint_of_sizes = _checkpoint_for_sizes(bundle, settings)
    parity = _parity(bundle)
    load_average_start = load_average()
    draft = _Draft()
    try:
        draft.stream = _stream(bundle, settings)
        run_contest(
            bundle,
            variants,
            draft.stream,
            checkpoint,
            settings=settings.contest,
            contest=draft.contest,
            progress=progress,
        )
        able = [variant for variant in variants if variant.name in draft.contest.engines]
        _score(bundle, able, labelled, settings.contest.how, draft.scores, progress)
        if settings.limits is not None:
            measure_further(
                bundle,
                able,
                draft.contest,
                draft.stream,
                settings.limits,
                draft.further,
                checkpoint=checkpoint_of_sizes,
                progress=progress,
            )
    except KeyboardInterrupt:
        draft.partial = True
    result = _result(bundle, settings, variants, draft, load_average_start=load_average_start, parity=parity)
    return BenchRun(result=result, samples=tuple(draft.contest.samples))


def _chosen_variants(bundle: Bundle, names: Sequence[str]) -> tuple[Variant, ...]:
    return tuple(bundle.variant(name) for name in names) if names else bundle.manifest.variants


def _labelled(bundle: Bundle, settings: BenchSettings) -> list[LabelledFrame]:
    """Frames to score, none without data."""
    if settings.data is None:
        return []
    frames = labelled_frames(settings.data, settings.split, settings.score_limit)
    check_frames(frames, bundle.manifest.spec)
    return frames


def _checkpoint_for_peers(bundle: Bundle, settings: BenchSettings) -> Path | str:
    """The checkpoint, or why there is none."""
    if not settings.peers:
        return NO_PEERS
    source_sha256 = bundle.manifest.source_sha256
    if settings.checkpoint is not None:
        return check_checkpoint(settings.checkpoint, source_sha256)
    found = find_checkpoint(source_sha256, bundle_root=bundle.root, working_folder=Path())
    return found or (
        f"the checkpoint with SHA-256 {source_sha256[:12]} is neither in checkpoints/ nor beside the bundle; "
        f"add it with: spacecompile bench {bundle.root} --checkpoint CKPT"
    )


def _checkpoint_for_sizes(bundle: Bundle, settings: BenchSettings) -> Path | str:
    """The checkpoint that scaling builds from; whether peers take part does not matter to it.

    Raises:
        UsageError: If scaling is asked for and there is none.
    """
    if settings.limits is None or not settings.limits.scaling:
        return "scaling was not asked for"
    found = _checkpoint_for_peers(bundle, replace(settings, peers=True))
    if isinstance(found, str):
        raise UsageError(f"--scaling builds other sizes from the bundle's source, but {found}")
    return found


def _stream(bundle: Bundle, settings: BenchSettings) -> FrameStream:
    if settings.data is None:
        return stream_from_bundle(bundle, settings.stream_frames)
    return stream_from_data(settings.data, settings.split, bundle.manifest.spec.frame_size_px, settings.stream_frames)


def _score(
    bundle: Bundle,
    variants: Sequence[Variant],
    frames: Sequence[LabelledFrame],
    how: LoadSettings,
    scores: dict[str, Scores],
    progress: Progress,
) -> None:
    """Score every variant on the labelled frames, if there are any."""
    if not frames:
        return
    manifest = bundle.manifest
    for variant in variants:
        with load(bundle, **how.arguments(variant)) as session:
            scores[variant.name] = evaluate(
                lambda frame_HWC, session=session: answered_from_answer(session(frame_HWC)),  # type: ignore[misc]
                frames,
                spec=manifest.spec,
                cost=manifest.cost,
                step=f"score {variant.name}",
                progress=progress,
            )


def _parity(bundle: Bundle) -> Any:
    if PARITY_PATH not in bundle.manifest.files:
        return UNSET
    try:
        return msgspec.json.decode(bundle.read(PARITY_PATH))
    except msgspec.DecodeError as error:
        raise IntegrityError(f"{bundle.root / PARITY_PATH} is not JSON: {error}. Build the bundle again.") from error


def _result(
    bundle: Bundle,
    settings: BenchSettings,
    variants: Sequence[Variant],
    draft: _Draft,
    *,
    load_average_start: float | None,
    parity: Any,
) -> BenchResult:
    contest, measured = draft.contest, bool(draft.contest.recording.app_ms)
    latency = contest.latencies(settings.contest.percentiles) if measured else UNSET
    score: Any = UNSET
    if settings.data is not None and draft.scores:
        score = ScoreReport(data=settings.data.name, split=settings.split, variants=draft.scores)
    return BenchResult(
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        partial=draft.partial,
        subject=_subject(bundle.manifest),
        configuration=_configuration(settings, draft) if measured else UNSET,
        environment=read_environment(threads=settings.contest.how.threads, load_average_start=load_average_start),
        budget=check_budget(bundle.manifest, settings.budget),
        score=score,
        score_note=NO_DATA if settings.data is None else UNSET,
        latency=latency,
        cold_start=contest.cold_starts or UNSET,
        skipped=contest.skipped or UNSET,
        peers=contest.peers([variant.name for variant in variants]) if measured else UNSET,
        roofline=draft.further.roofline,
        roofline_note=draft.further.roofline_note,
        scaling=draft.further.scaling,
        parity=parity,
        warnings=_warnings(draft, load_average_start),
    )


def _subject(manifest: Manifest) -> Subject:
    return Subject(
        bundle=manifest.name,
        source_sha256=manifest.source_sha256,
        architecture=manifest.spec.architecture,
        encoder=manifest.spec.encoder,
        input_size_px=manifest.spec.input_size_px,
        frame_size_px=manifest.spec.frame_size_px,
        variant_bytes={variant.name: manifest.files[variant.path].bytes for variant in manifest.variants},
        checkpoint_training=manifest.training,
    )


def _configuration(settings: BenchSettings, draft: _Draft) -> Configuration:
    latency, engines = settings.contest.latency, draft.contest.engines
    assert draft.stream is not None  # samples exist, so there were frames
    return Configuration(
        backend=", ".join(dict.fromkeys(f"{engine.name} {engine.version}" for engine in engines.values())),
        engines=engines,
        spinning=settings.contest.how.spinning,
        frames=len(draft.stream.frames_HWC),
        frames_source=draft.stream.source,
        rounds=draft.contest.recording.rounds,
        rounds_min=latency.rounds_min,
        duration_s=latency.duration_s,
        warmup_rounds=latency.warmup_rounds,
        warmup_s=latency.warmup_s,
        settle_max_ms=latency.settle_max_ms,
        priming_calls=latency.priming_calls,
        augmented_every=SLOW_EVERY,
    )


def _warnings(draft: _Draft, load_average_start: float | None) -> tuple[str, ...]:
    """What a reader must know before using the numbers."""
    warnings = ["interrupted: sections that are not there were not measured"] if draft.partial else []
    warnings += [f"variant {name} was left out: {reason}" for name, reason in draft.contest.skipped.items()]
    for name, latency in draft.contest.latencies(()).get("app", {}).items():
        if latency.variation > NOISY_VARIATION:
            warnings.append(
                f"{name}: the samples vary by {latency.variation:.0%} of their mean; the machine is noisy, compare "
                "medians and ratios only"
            )
    if load_average_start is not None and load_average_start > 0.5 * usable_processors():
        warnings.append(
            f"load average was {load_average_start:.1f} on {usable_processors()} processors before the run; other "
            "programs share the machine"
        )
    for name, agreement in draft.contest.agreements.items():
        if not agreement.same:
            warnings.append(
                f"{name}: its answers differ from the variant's by more than resize geometry explains (classes agree "
                f"on {agreement.class_agreement:.0%}, parts on {agreement.parts_near_mean:.1%} within "
                f"{agreement.near_px} px, boxes within {agreement.box_px_median:.1f} px, median); its ratio may "
                "compare different tasks"
            )
    return tuple(warnings)


def check_settings(settings: BenchSettings) -> None:
    """Refuse settings that could only fail after minutes.

    Raises:
        UsageError: If a number is out of range.
    """
    if settings.stream_frames < 1:
        raise UsageError(f"the latency stream has {settings.stream_frames} frames; at least one is needed.")
    if settings.contest.how.threads < 1:
        raise UsageError(f"threads is {settings.contest.how.threads}; at least one is needed. Check --threads.")
