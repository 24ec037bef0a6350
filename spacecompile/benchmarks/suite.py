"""The whole benchmark of one bundle, in the order of the results file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from spacecompile.benchmarks.frame_stream import FrameStream, labelled_frames, stream_from_bundle, stream_from_data
from spacecompile.benchmarks.latency.process_start import start_once, summarise_starts
from spacecompile.benchmarks.latency.throughput import measure_throughput, session_counts
from spacecompile.benchmarks.latency.variants import Entrant, answered_from_answer, entrants, no_onnx
from spacecompile.benchmarks.limits.records import LimitReport
from spacecompile.benchmarks.limits.scaling_records import ScalingReport
from spacecompile.benchmarks.peers.table import chosen_peers, not_installed
from spacecompile.benchmarks.race import run_contest
from spacecompile.benchmarks.result import result_of
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.benchmarks.run import INTERRUPTED, NO_DATA, Contest, Draft, Further, unforeseen
from spacecompile.benchmarks.score.evaluate import check_frames, evaluate
from spacecompile.benchmarks.settings import BenchSettings
from spacecompile.benchmarks.source_checkpoint import check_checkpoint, find_checkpoint
from spacecompile.contract import Progress, Variant, no_progress
from spacecompile.data.labels import LabelledFrame
from spacecompile.errors import (
    BuildError,
    CheckpointError,
    IntegrityError,
    MissingPartError,
    SpacecompileError,
    UsageError,
)
from spacecompile.extras import require_extra
from spacecompile.machine.environment import load_average
from spacecompile.machine.watch import MachineWatch
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.session import load

PARITY_PATH = "reports/parity.json"

NO_PEERS = "left out on request"
NO_TORCH_SCORES = "PyTorch's scores were left out; add them with: --torch-scores"


@dataclass(frozen=True, kw_only=True)
class BenchRun:
    """A result and the pictures' raw material.

    Attributes:
        result: For the results file.
        samples: Frames with their answers.
        failure: Of the first step after the latency run that failed; None where none did, or after an interrupt.
    """

    result: BenchResult
    samples: tuple[tuple[NDArray[np.uint8], Answer], ...]
    failure: SpacecompileError | None = None


def run_bench(bundle: Bundle, settings: BenchSettings, *, progress: Progress = no_progress) -> BenchRun:
    """Measure a bundle. Interrupted, or when a later step fails, it returns what it has, marked as partial.

    Args:
        bundle: With every hash checked.
        settings: What and how.
        progress: Told each step.

    Raises:
        SpacecompileError: If an input can't be used, or fails before any latency was measured.
    """
    variants = _chosen_variants(bundle, settings.variants)
    asked, missing_backends = entrants(variants, settings.backends, settings.contest.how)
    chosen_peers(settings.contest.peers, ())
    labelled = _labelled(bundle, settings)
    checkpoint = _checkpoint_for_peers(bundle, settings)
    sizes = _checkpoint_for_sizes(bundle, settings)
    draft = Draft(
        watch=MachineWatch(),
        load_average_start=load_average(),
        parity=_parity(bundle),
        missing_backends=missing_backends,
    )
    try:
        draft.stream = _stream(bundle, settings)
        _start(bundle, asked, settings, draft, progress)
        _race(bundle, asked, checkpoint, settings, draft, progress)
        able = [entrant for entrant in asked if entrant.name in draft.contest.engines]
        with draft.step("throughput"):
            _throughput(bundle, able, settings, draft, progress)
        with draft.step("scores"):
            _score(bundle, able, labelled, draft, progress)
        with draft.step("graphs"):
            _graphs(bundle, variants, draft, progress)
        with draft.step("stages"):
            _stages(bundle, checkpoint, draft, progress)
        with draft.step("torch_scores"):
            _torch_score(bundle, able, labelled, checkpoint, settings, draft, progress=progress)
        _further(bundle, able, settings, draft, sizes=sizes, progress=progress)
    except KeyboardInterrupt:
        draft.interrupted = True
    result = result_of(bundle, settings, asked, draft)
    failure = None if draft.interrupted else next(iter(draft.failed.values()), None)
    return BenchRun(result=result, samples=tuple(draft.contest.samples), failure=failure)


def _race(
    bundle: Bundle,
    asked: Sequence[Entrant],
    checkpoint: Path | str,
    settings: BenchSettings,
    draft: Draft,
    progress: Progress,
) -> None:
    """The latency run, then pace and energy, each a step of its own.

    Raises:
        Exception: What stopped it, if nothing was measured yet.
    """
    try:
        run_contest(
            bundle,
            asked,
            _required(draft.stream),
            checkpoint,
            settings=settings.contest,
            contest=draft.contest,
            step=draft.step,
            progress=progress,
        )
    except Exception as error:
        if not draft.contest.recording.app_ms:
            raise
        draft.failed["latency"] = error if isinstance(error, SpacecompileError) else unforeseen("latency", error)


def _further(
    bundle: Bundle,
    able: Sequence[Entrant],
    settings: BenchSettings,
    draft: Draft,
    *,
    sizes: Path | None,
    progress: Progress,
) -> None:
    """Limits and scaling, each on its own."""
    if settings.limits is None:
        return
    with draft.step("roofline"):
        measure_roofline(
            bundle,
            able,
            draft.contest,
            _required(draft.stream),
            settings,
            draft.further,
            progress=progress,
        )
    with draft.step("scaling"):
        measure_sizes(bundle, able, draft.contest, settings, draft.further, sizes=sizes, progress=progress)


def _required(stream: FrameStream | None) -> FrameStream:
    assert stream is not None  # `run_bench` has opened it
    return stream


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


def _checkpoint_for_sizes(bundle: Bundle, settings: BenchSettings) -> Path | None:
    """The checkpoint that scaling builds from; whether peers take part does not matter to it.

    Raises:
        UsageError: If scaling is asked for and there is none.
    """
    if settings.limits is None or not settings.limits.scaling:
        return None
    found = _checkpoint_for_peers(bundle, replace(settings, peers=True))
    if isinstance(found, str):
        raise UsageError(f"--scaling builds other sizes from the bundle's source, but {found}")
    return found


def _stream(bundle: Bundle, settings: BenchSettings) -> FrameStream:
    if settings.data is None:
        return stream_from_bundle(bundle, settings.stream_frames)
    return stream_from_data(settings.data, settings.split, bundle.manifest.spec.frame_size_px, settings.stream_frames)


def _start(bundle: Bundle, asked: Sequence[Entrant], settings: BenchSettings, draft: Draft, progress: Progress) -> None:
    """Start every variant in processes of its own, before this one's threads could disturb them."""
    if not settings.starts:
        return
    draft.notes["process_start"] = INTERRUPTED
    for done, entrant in enumerate(asked):
        starts = []
        for number in range(settings.starts):
            starts.append(start_once(bundle.root, entrant.variant, entrant.how))
            progress("start processes", done * settings.starts + number + 1, len(asked) * settings.starts)
            if isinstance(starts[-1], str):
                break
        draft.process_start[entrant.name] = summarise_starts(starts)
    del draft.notes["process_start"]


def _throughput(
    bundle: Bundle, able: Sequence[Entrant], settings: BenchSettings, draft: Draft, progress: Progress
) -> None:
    """Sessions side by side, of the variants without test-time augmentation."""
    plain = [entrant for entrant in able if entrant.variant.tta == "none"]
    if not settings.throughput or draft.stream is None:
        return
    for done, entrant in enumerate(plain):
        counts = session_counts(entrant.how.threads)
        for place, sessions in enumerate(counts, start=1):
            seen = measure_throughput(
                bundle, entrant.variant, draft.stream.frames_HWC, how=entrant.how, sessions=sessions
            )
            draft.throughput[entrant.name] = (*draft.throughput.get(entrant.name, ()), seen)
            progress("throughput", done * len(counts) + place, len(plain) * len(counts))


def _score(
    bundle: Bundle, able: Sequence[Entrant], frames: Sequence[LabelledFrame], draft: Draft, progress: Progress
) -> None:
    """Score every variant on the labelled frames, if there are any."""
    manifest = bundle.manifest
    for entrant in able if frames else ():
        with load(bundle, **entrant.how.arguments(entrant.variant)) as session:
            draft.scores[entrant.name] = evaluate(
                lambda frame_HWC, session=session: answered_from_answer(session(frame_HWC)),  # type: ignore[misc]
                frames,
                spec=manifest.spec,
                cost=manifest.cost,
                step=f"score {entrant.name}",
                progress=progress,
            )


def _graphs(bundle: Bundle, variants: Sequence[Variant], draft: Draft, progress: Progress) -> None:
    """Count the graphs, after the latency run."""
    no_files = {variant.name: reason for variant in variants if (reason := no_onnx(variant))}
    if no_files:
        draft.cost_notes["graphs"] = "; ".join(f"{name}: {reason}" for name, reason in no_files.items())
    try:
        draft.graphs = import_module("spacecompile.benchmarks.cost.graphs").graph_costs(
            bundle, variants, progress=progress
        )
    except ModuleNotFoundError as error:
        draft.cost_notes["graphs"] = not_installed(error, "compile")


def _stages(bundle: Bundle, checkpoint: Path | str, draft: Draft, progress: Progress) -> None:
    """Count the network's stages where its checkpoint is at hand, after the latency run."""
    if isinstance(checkpoint, str):
        draft.cost_notes["stages"] = checkpoint
        return
    try:
        draft.stages = import_module("spacecompile.benchmarks.cost.stages").stage_costs(
            checkpoint, bundle.manifest.spec, progress=progress
        )
    except ModuleNotFoundError as error:
        draft.cost_notes["stages"] = not_installed(error, "compile")
    except (CheckpointError, BuildError) as error:
        draft.cost_notes["stages"] = str(error)


def _torch_score(
    bundle: Bundle,
    able: Sequence[Entrant],
    frames: Sequence[LabelledFrame],
    checkpoint: Path | str,
    settings: BenchSettings,
    draft: Draft,
    *,
    progress: Progress,
) -> None:
    """PyTorch's scores on the same frames with every augmentation that the variants have; last, since it is slowest."""
    if not frames:
        draft.notes["drops"] = NO_DATA
    elif not settings.torch_scores or isinstance(checkpoint, str):
        draft.notes["drops"] = checkpoint if isinstance(checkpoint, str) else NO_TORCH_SCORES
    else:
        try:
            module = import_module("spacecompile.benchmarks.score.torch_scores")
            module.torch_scores(
                checkpoint,
                bundle.manifest.spec,
                [entrant.variant.tta for entrant in able],
                frames,
                scores=draft.torch_scores,
                progress=progress,
            )
        except ModuleNotFoundError as error:
            draft.notes["drops"] = not_installed(error, "compile")
        except CheckpointError as error:
            draft.notes["drops"] = str(error)


def _parity(bundle: Bundle) -> Any:
    if PARITY_PATH not in bundle.manifest.files:
        return UNSET
    try:
        return msgspec.json.decode(bundle.read(PARITY_PATH))
    except msgspec.DecodeError as error:
        raise IntegrityError(f"{bundle.root / PARITY_PATH} is not JSON: {error}. Build the bundle again.") from error


def measure_sizes(
    bundle: Bundle,
    asked: Sequence[Entrant],
    contest: Contest,
    settings: BenchSettings,
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
    from spacecompile.benchmarks.limits.scaling import measure_scaling, scaling_settings  # noqa: PLC0415

    def keep(report: ScalingReport) -> None:
        further.scaling = report

    how, duration_s = settings.contest.how, settings.contest.latency.duration_s
    further.scaling = measure_scaling(
        sizes,
        bundle.manifest.spec,
        subject.variant,
        backend=contest.engines[subject.name].name,
        settings=scaling_settings(threads=how.threads, spinning=how.spinning, duration_s=duration_s),
        keep=keep,
        progress=progress,
    )


def measure_roofline(
    bundle: Bundle,
    asked: Sequence[Entrant],
    contest: Contest,
    stream: FrameStream,
    settings: BenchSettings,
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
    limits, how, duration_s = settings.limits, settings.contest.how, settings.contest.latency.duration_s
    if not asked or limits is None or not (limits.roofline or limits.profile):
        return
    try:
        require_extra("compile", "the roofline, which reads graphs,")
    except MissingPartError as error:
        further.roofline_note = str(error)
        return
    # It reads ONNX files, which a machine that only runs bundles can't.
    from spacecompile.benchmarks.limits.measure import limit_settings, measure_limits  # noqa: PLC0415

    def keep(report: LimitReport) -> None:
        further.roofline = report

    chosen = limit_settings(threads=how.threads, spinning=how.spinning, profile=limits.profile, duration_s=duration_s)
    engines = {name: engine.name for name, engine in contest.engines.items()}
    further.roofline = measure_limits(bundle, asked, engines, stream.frames_HWC, chosen, keep=keep, progress=progress)
