"""From what a benchmark found to its results file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import UNSET

from spacecompile._version import __version__
from spacecompile.benchmarks.cost.budget import Measured, check_budget
from spacecompile.benchmarks.cost.records import BudgetReport
from spacecompile.benchmarks.latency.records import ProcessStart
from spacecompile.benchmarks.latency.summary import NOISY_VARIATION
from spacecompile.benchmarks.latency.variants import SLOW_EVERY, Entrant, no_onnx
from spacecompile.benchmarks.result_records import BenchResult, Configuration, Subject
from spacecompile.benchmarks.run import INTERRUPTED, NO_DATA, Run
from spacecompile.benchmarks.score.evaluate import charged_score, score_drop
from spacecompile.benchmarks.score.records import ScoreReport
from spacecompile.benchmarks.step import Step
from spacecompile.contract import Manifest
from spacecompile.machine.environment import read_environment
from spacecompile.machine.watch import machine_warnings
from spacecompile.metrics import Scores
from spacecompile.runtime.backends.registry import entry_named
from spacecompile.runtime.threads import usable_processors

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


def result_of(run: Run, steps: Sequence[Step]) -> BenchResult:
    """The results file of a run, whole or interrupted.

    Args:
        run: Everything that was found.
        steps: Steps whose sections the file holds.
    """
    race, manifest, settings = run.race, run.bundle.manifest, run.settings
    measured = bool(race.recording.app_ms)
    sections = {name: value for step in steps for name, value in step.section(run).items()}
    score = _score(run)
    environment = read_environment(threads=settings.contest.how.threads, load_average_start=run.load_average_start)
    machine = run.watch.facts()
    return BenchResult(
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        partial=run.partial,
        subject=_subject(manifest, run.entrants),
        configuration=_configuration(run) if measured else UNSET,
        environment=msgspec.structs.replace(environment, machine=machine),
        budget=_budget(run, score),
        score=score or UNSET,
        score_note=NO_DATA if settings.data is None else str(run.failed.get("scores", "")) or UNSET,
        missing_backends=run.missing_backends or UNSET,
        peers=race.peer_rows(run.entrants, unreached=_why_unreached(run)) if measured else UNSET,
        failed_steps={name: str(error) for name, error in run.failed.items()} or UNSET,
        parity=run.parity,
        warnings=(*_warnings(run), *machine_warnings(machine)),
        **sections,
    )


def _why_unreached(run: Run) -> str:
    """Why the latency run ended before everybody was measured, for those that it did not reach."""
    if failure := run.failed.get("latency"):
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


def _configuration(run: Run) -> Configuration:
    settings, stream = run.settings, run.stream
    latency, engines = settings.contest.latency, run.race.engines
    assert stream is not None  # samples exist, so there were frames
    return Configuration(
        backend=", ".join(dict.fromkeys(f"{engine.name} {engine.version}" for engine in engines.values())),
        engines=engines,
        spinning=settings.contest.how.spinning,
        frames=len(stream.frames_HWC),
        frames_source=stream.source,
        rounds=run.race.recording.rounds,
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


def _score(run: Run) -> ScoreReport | None:
    """Scores of the variants, and next to them PyTorch's; None without labelled frames."""
    settings, cost = run.settings, run.bundle.manifest.cost
    found: dict[str, Scores] = run.sections.get("scores", {})
    torch: dict[str, Scores] = run.sections.get("torch_scores", {})
    if settings.data is None or not found:
        return None
    ttas = {entrant.name: entrant.variant.tta for entrant in run.entrants}
    return ScoreReport(
        data=settings.data.name,
        split=settings.split,
        variants=found,
        s_final_charged={name: charged_score(scores, cost, ttas[name]) for name, scores in found.items()},
        torch=torch,
        drops={name: score_drop(scores, torch[ttas[name]]) for name, scores in found.items() if ttas[name] in torch},
        torch_note=run.notes.get("torch_scores", ""),
    )


def _budget(run: Run, score: ScoreReport | None) -> BudgetReport:
    manifest, skipped = run.bundle.manifest, run.race.skipped
    able = [entrant for entrant in run.entrants if entrant.name not in skipped]
    why = {"process_start": NO_STARTS, "drops": run.notes.get("torch_scores", "")}
    if failure := run.failed.get("scores") or run.failed.get("torch_scores"):
        why["drops"] = str(failure)
    if run.interrupted:
        why |= dict.fromkeys(("process_start", "app", "drops"), "the run was interrupted before")
    measured = Measured(
        file_bytes={entrant.name: manifest.files[entrant.variant.path].bytes for entrant in able},
        process_start=run.sections.get("process_start", {}),
        app=run.race.latencies(run.settings.contest.percentiles).get("app", {}),
        drops=score.drops if score else {},
        why={name: reason for name, reason in why.items() if reason},
        left_out=skipped,
    )
    report = check_budget(manifest, run.settings.budget, measured, [entrant.name for entrant in able])
    return msgspec.structs.replace(
        report, stages=run.sections.get("stages", ()), graphs=run.sections.get("graphs", {}), notes=_cost_notes(run)
    )


def _cost_notes(run: Run) -> dict[str, str]:
    """Why graphs or stages are not there, or not all of them."""
    no_files = [f"{variant.name}: {reason}" for variant in run.variants if (reason := no_onnx(variant))]
    notes = {"graphs": run.notes.get("graphs") or "; ".join(no_files), "stages": run.notes.get("stages", "")}
    return {name: note for name, note in notes.items() if note}


def _warnings(run: Run) -> list[str]:
    """What a reader must know before using the numbers."""
    warnings = ["interrupted: sections that are not there were not measured"] if run.interrupted else []
    warnings += [
        f"the step {name} failed, and what it had not measured by then is not there: {error}"
        for name, error in run.failed.items()
    ]
    warnings += [f"variant {name} was left out: {reason}" for name, reason in run.race.skipped.items()]
    starts: dict[str, ProcessStart] = run.sections.get("process_start", {})
    warnings += [
        f"variant {name} could not be started in a process of its own: {start.problem}"
        for name, start in starts.items()
        if start.problem
    ]
    for name, latency in run.race.latencies(()).get("app", {}).items():
        if latency.variation > NOISY_VARIATION:
            warnings.append(
                f"{name}: the samples vary by {latency.variation:.0%} of their mean; the machine is noisy, compare "
                "medians and ratios only"
            )
    busy = run.load_average_start
    if busy is not None and busy > 0.5 * usable_processors():
        warnings.append(
            f"load average was {busy:.1f} on {usable_processors()} processors before the run; other programs share the "
            "machine"
        )
    return warnings + _disagreements(run)


def _disagreements(run: Run) -> list[str]:
    return [
        f"{name}: its answers differ from the variant's by more than resize geometry explains (classes agree on "
        f"{agreement.class_agreement:.0%}, parts on {agreement.parts_near_mean:.1%} within {agreement.near_px} px, "
        f"boxes within {agreement.box_px_median:.1f} px, median); its ratio may compare different tasks"
        for name, agreement in run.race.agreements.items()
        if not agreement.same
    ]
