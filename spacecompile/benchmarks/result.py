"""From what a benchmark found to its results file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from spacecompile._version import __version__
from spacecompile.benchmarks.cost.budget import Measured, check_budget
from spacecompile.benchmarks.cost.records import BudgetReport
from spacecompile.benchmarks.latency.records import Latency
from spacecompile.benchmarks.latency.summary import NOISY_VARIATION
from spacecompile.benchmarks.latency.variants import SLOW_EVERY, Entrant
from spacecompile.benchmarks.result_records import BenchResult, Configuration, Subject
from spacecompile.benchmarks.run import INTERRUPTED, NO_DATA, Draft
from spacecompile.benchmarks.score.evaluate import charged_score, score_drop
from spacecompile.benchmarks.score.records import ScoreReport
from spacecompile.contract import Manifest
from spacecompile.machine.environment import read_environment
from spacecompile.machine.watch import machine_warnings
from spacecompile.runtime.backends.registry import entry_named
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.threads import usable_processors

if TYPE_CHECKING:
    from spacecompile.benchmarks.settings import BenchSettings

_SCOPES = {
    "engine": "the engine's own call; of a peer, its network alone",
    "device": "the engine's call with its copies; on a CPU it computes where the frame lies, so this is `engine`",
    "app": "session(frame): frame in memory to answer, checks included",
    "file": "session(path): image file to answer, decoding included, file in the page cache",
}
_GPU_SCOPES = {
    "engine": "the graph alone: on a GPU by CUDA events around it, which are part of our own CUDA graph; around ONNX "
    "Runtime's they are recorded by the host, whose wait is in it. On a CPU the engine's own call by the host's clock. "
    "Of a peer, its network alone",
    "device": "the graph with the copies of frame and answer: on a GPU by CUDA events, on a CPU the same as `engine`. "
    "Of a peer, its engine's call with its copies, by the host's clock",
    "app": "session(frame): frame in memory to answer, checks and, on a GPU, the timed events included",
}

NO_STARTS = "variants were not started in processes of their own; do it with: --starts 3"


def result_of(bundle: Bundle, settings: BenchSettings, asked: Sequence[Entrant], draft: Draft) -> BenchResult:
    """The results file of a run, whole or interrupted.

    Args:
        bundle: That was measured.
        settings: Of the run.
        asked: Variants that were to be measured.
        draft: What was found.
    """
    contest, measured = draft.contest, bool(draft.contest.recording.app_ms)
    latency = contest.latencies(settings.contest.percentiles) if measured else {}
    score = _score(bundle.manifest, settings, asked, draft)
    rate_hz = settings.contest.rate_hz
    environment = read_environment(threads=settings.contest.how.threads, load_average_start=draft.load_average_start)
    machine = draft.watch.facts()
    return BenchResult(
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        partial=draft.partial,
        subject=_subject(bundle.manifest, asked),
        configuration=_configuration(settings, draft) if measured else UNSET,
        environment=msgspec.structs.replace(environment, machine=machine),
        budget=_budget(bundle.manifest, settings, asked, draft, latency.get("app", {}), score),
        score=score or UNSET,
        score_note=NO_DATA if settings.data is None else _failure(draft, "scores") or UNSET,
        latency=latency or UNSET,
        cold_start=contest.cold_starts or UNSET,
        process_start=draft.process_start or UNSET,
        paced=contest.paced(rate_hz, settings.contest.percentiles) or UNSET if rate_hz is not None else UNSET,
        throughput=draft.throughput or UNSET,
        energy=contest.energy or UNSET,
        energy_note=contest.energy_note or _failure(draft, "energy") or UNSET,
        missing_backends=draft.missing_backends or UNSET,
        skipped=contest.skipped or UNSET,
        peers=contest.peers(asked, unreached=_why_unreached(draft)) if measured else UNSET,
        roofline=draft.further.roofline,
        roofline_note=draft.further.roofline_note or _failure(draft, "roofline") or UNSET,
        scaling=draft.further.scaling,
        failed_steps={name: str(error) for name, error in draft.failed.items()} or UNSET,
        parity=draft.parity,
        warnings=(*_warnings(draft), *machine_warnings(machine)),
    )


def _failure(draft: Draft, step: str) -> str:
    """Why a step failed; empty where it did not."""
    return str(draft.failed.get(step, ""))


def _why_unreached(draft: Draft) -> str:
    """Why the latency run ended before everybody was measured, for those that it did not reach."""
    if failure := _failure(draft, "latency"):
        return f"the latency run failed before it was measured: {failure}"
    return INTERRUPTED


def _subject(manifest: Manifest, asked: Sequence[Entrant]) -> Subject:
    every = {variant.name: variant for variant in manifest.variants} | {
        entrant.name: entrant.variant for entrant in asked
    }
    return Subject(
        bundle=manifest.name,
        source_sha256=manifest.source_sha256,
        architecture=manifest.spec.architecture,
        encoder=manifest.spec.encoder,
        input_size_px=manifest.spec.input_size_px,
        frame_size_px=manifest.spec.frame_size_px,
        variant_bytes={name: manifest.files[variant.path].bytes for name, variant in every.items()},
        checkpoint_training=manifest.training,
    )


def _configuration(settings: BenchSettings, draft: Draft) -> Configuration:
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
        block_calls=latency.block_calls,
        augmented_every=SLOW_EVERY,
        scopes=scopes_of(engine.name for engine in engines.values()),
    )


def scopes_of(backends: Iterable[str]) -> dict[str, str]:
    """What each scope of `latency` is.

    Args:
        backends: Names of those that ran variants.
    """
    on_gpu = any(entry_named(name).on_gpu for name in backends)
    return _SCOPES | _GPU_SCOPES if on_gpu else _SCOPES


def _score(manifest: Manifest, settings: BenchSettings, asked: Sequence[Entrant], draft: Draft) -> ScoreReport | None:
    """Scores of the variants, and next to them PyTorch's; None without labelled frames."""
    if settings.data is None or not draft.scores:
        return None
    variants = {entrant.name: entrant.variant for entrant in asked}
    return ScoreReport(
        data=settings.data.name,
        split=settings.split,
        variants=draft.scores,
        s_final_charged={
            name: charged_score(scores, manifest.cost, variants[name].tta) for name, scores in draft.scores.items()
        },
        torch=draft.torch_scores,
        drops={
            name: score_drop(scores, draft.torch_scores[variants[name].tta])
            for name, scores in draft.scores.items()
            if variants[name].tta in draft.torch_scores
        },
        torch_note=draft.notes.get("drops", ""),
    )


def _budget(
    manifest: Manifest,
    settings: BenchSettings,
    asked: Sequence[Entrant],
    draft: Draft,
    app: dict[str, Latency],
    score: ScoreReport | None,
) -> BudgetReport:
    able = [entrant for entrant in asked if entrant.name not in draft.contest.skipped]
    why: dict[str, str] = {"process_start": NO_STARTS, **draft.notes}
    if failure := _failure(draft, "scores") or _failure(draft, "torch_scores"):
        why["drops"] = failure
    if draft.interrupted:
        why |= dict.fromkeys(("process_start", "app", "drops"), "the run was interrupted before")
    measured = Measured(
        file_bytes={entrant.name: manifest.files[entrant.variant.path].bytes for entrant in able},
        process_start=draft.process_start,
        app=app,
        drops=score.drops if score else {},
        why=why,
        left_out=draft.contest.skipped,
    )
    report = check_budget(manifest, settings.budget, measured, [entrant.name for entrant in able])
    return msgspec.structs.replace(report, stages=draft.stages, graphs=draft.graphs, notes=draft.cost_notes)


def _warnings(draft: Draft) -> list[str]:
    """What a reader must know before using the numbers."""
    warnings = ["interrupted: sections that are not there were not measured"] if draft.interrupted else []
    warnings += [
        f"the step {name} failed, and what it had not measured by then is not there: {error}"
        for name, error in draft.failed.items()
    ]
    warnings += [f"variant {name} was left out: {reason}" for name, reason in draft.contest.skipped.items()]
    warnings += [
        f"variant {name} could not be started in a process of its own: {start.problem}"
        for name, start in draft.process_start.items()
        if start.problem
    ]
    for name, latency in draft.contest.latencies(()).get("app", {}).items():
        if latency.variation > NOISY_VARIATION:
            warnings.append(
                f"{name}: the samples vary by {latency.variation:.0%} of their mean; the machine is noisy, compare "
                "medians and ratios only"
            )
    busy = draft.load_average_start
    if busy is not None and busy > 0.5 * usable_processors():
        warnings.append(
            f"load average was {busy:.1f} on {usable_processors()} processors before the run; other programs share the "
            "machine"
        )
    return warnings + _disagreements(draft)


def _disagreements(draft: Draft) -> list[str]:
    return [
        f"{name}: its answers differ from the variant's by more than resize geometry explains (classes agree on "
        f"{agreement.class_agreement:.0%}, parts on {agreement.parts_near_mean:.1%} within {agreement.near_px} px, "
        f"boxes within {agreement.box_px_median:.1f} px, median); its ratio may compare different tasks"
        for name, agreement in draft.contest.agreements.items()
        if not agreement.same
    ]
