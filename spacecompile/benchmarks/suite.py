"""The whole benchmark of one bundle: its steps, in the order in which they are measured.

A step imports what needs an extra when it measures: a machine that only runs bundles can be benchmarked too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from spacecompile.benchmarks.agreement import answered_from_answer
from spacecompile.benchmarks.cost.records import GraphCost, StageCost
from spacecompile.benchmarks.latency.process_start import start_once, summarise_starts
from spacecompile.benchmarks.latency.records import ProcessStart, Throughput
from spacecompile.benchmarks.latency.throughput import measure_throughput, session_counts
from spacecompile.benchmarks.latency.variants import no_onnx
from spacecompile.benchmarks.limits.records import LimitReport
from spacecompile.benchmarks.limits.scaling_records import ScalingReport
from spacecompile.benchmarks.peers.table import not_installed
from spacecompile.benchmarks.race import ENERGY, LATENCY, PACED, race
from spacecompile.benchmarks.result import result_of
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.benchmarks.run import NO_DATA, Run, prepared_run, read_stream
from spacecompile.benchmarks.score.evaluate import evaluate
from spacecompile.benchmarks.settings import BenchSettings, check_settings
from spacecompile.benchmarks.step import NOT_ASKED, NotMeasuredError, Step, step_of, take
from spacecompile.contract import Progress, Tta, no_progress
from spacecompile.errors import BuildError, CheckpointError, MissingPartError, SpacecompileError, UsageError
from spacecompile.extras import require_extra
from spacecompile.metrics import Scores
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.bundle import Bundle, open_bundle
from spacecompile.runtime.session import load

NO_TORCH_SCORES = "PyTorch's scores were left out; add them with: --torch-scores"


@dataclass(frozen=True, kw_only=True)
class BenchRun:
    """A result and the pictures' raw material.

    Attributes:
        result: Content of the results file.
        samples: A few frames with their answers.
        failure: Error of the first step that failed; None where none did, or after an interrupt.
    """

    result: BenchResult
    samples: tuple[tuple[NDArray[np.uint8], Answer], ...]
    failure: SpacecompileError | None = None


def bench(
    bundle: Bundle | Path | str, *, settings: BenchSettings | None = None, progress: Progress = no_progress
) -> BenchRun:
    """Measure latency, budgets, score and whatever else is asked for of one bundle, beside its peers.

    Ctrl-C ends the run with what was measured, marked as partial.

    Example:
        spacecompile.bench("net.spacepkg").result.latency

    Args:
        bundle: Bundle or its folder.
        settings: What to measure, and how; the defaults of `BenchSettings` if not given.
        progress: Callback for progress.

    Returns:
        The result, and in `failure` the error of the first step that failed after latencies were measured.

    Raises:
        UsageError: If a setting makes no sense.
        SpacecompileError: If an input can't be used, or a step fails before any latency was measured.
    """
    chosen = settings or BenchSettings()
    check_settings(chosen)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    return run_bench(opened, chosen, progress=progress)


def run_bench(bundle: Bundle, settings: BenchSettings, *, progress: Progress = no_progress) -> BenchRun:
    """Measure a bundle. Interrupted, or when a later step fails, it returns what it has, marked as partial.

    Args:
        bundle: Bundle with every hash checked.
        settings: What to measure, and how.
        progress: Callback for progress.

    Raises:
        SpacecompileError: If an input can't be used, or a step fails before any latency was measured.
    """
    run = prepared_run(bundle, settings, progress)
    try:
        run.stream = read_stream(run)
        take(run, PROCESS_START)
        with step_of(run, LATENCY.name), race(run):
            for step in IN_THE_RACE:
                take(run, step)
        for step in AFTER_THE_RACE:
            take(run, step)
    except KeyboardInterrupt:
        run.interrupted = True
    result = result_of(run, STEPS)
    failure = None if run.interrupted else next(iter(run.failed.values()), None)
    return BenchRun(result=result, samples=tuple(run.race.samples), failure=failure)


def _start(run: Run) -> Iterator[dict[str, ProcessStart]]:
    """Start every variant in processes of its own, before this one's threads could disturb them."""
    found: dict[str, ProcessStart] = {}
    wanted = run.settings.starts
    for done, entrant in enumerate(run.entrants):
        starts = []
        for number in range(wanted):
            starts.append(start_once(run.bundle.root, entrant.variant, entrant.how))
            run.progress("start processes", done * wanted + number + 1, len(run.entrants) * wanted)
            if isinstance(starts[-1], str):
                break
        found[entrant.name] = summarise_starts(starts)
        yield found


def _throughput(run: Run) -> Iterator[dict[str, tuple[Throughput, ...]]]:
    """Sessions side by side, of the variants without test-time augmentation."""
    found: dict[str, tuple[Throughput, ...]] = {}
    plain = [entrant for entrant in run.able if entrant.variant.tta == "none"]
    for done, entrant in enumerate(plain):
        counts = session_counts(entrant.how.threads)
        for place, sessions in enumerate(counts, start=1):
            seen = measure_throughput(run.bundle, entrant.variant, run.frames_HWC, how=entrant.how, sessions=sessions)
            found[entrant.name] = (*found.get(entrant.name, ()), seen)
            run.progress("throughput", done * len(counts) + place, len(plain) * len(counts))
            yield found


def _scores(run: Run) -> Iterator[dict[str, Scores]]:
    """The benchmark's score of every variant on the labelled frames."""
    manifest = run.bundle.manifest
    found: dict[str, Scores] = {}
    for entrant in run.able:
        with load(run.bundle, **entrant.how.arguments(entrant.variant)) as session:
            found[entrant.name] = evaluate(
                lambda frame_HWC, session=session: answered_from_answer(session(frame_HWC)),  # type: ignore[misc]
                run.labelled,
                spec=manifest.spec,
                cost=manifest.cost,
                step=f"score {entrant.name}",
                progress=run.progress,
            )
        yield found


def _graphs(run: Run) -> Iterator[dict[str, GraphCost]]:
    """What each variant's file computes and moves."""
    try:
        graphs = import_module("spacecompile.benchmarks.cost.graphs")
    except ModuleNotFoundError as error:
        raise NotMeasuredError(not_installed(error, "compile")) from error
    yield graphs.graph_costs(run.bundle, run.variants, progress=run.progress)


def _stages(run: Run) -> Iterator[tuple[StageCost, ...]]:
    """What each stage of the network costs."""
    try:
        stages = import_module("spacecompile.benchmarks.cost.stages")
        yield stages.stage_costs(run.checkpoint, run.bundle.manifest.spec, progress=run.progress)
    except ModuleNotFoundError as error:
        raise NotMeasuredError(not_installed(error, "compile")) from error
    except (CheckpointError, BuildError) as error:
        raise NotMeasuredError(str(error)) from error


def _torch_scores(run: Run) -> Iterator[dict[Tta, Scores]]:
    """PyTorch's scores on the same frames with every augmentation that the variants have; late, since it is slow."""
    ttas = [entrant.variant.tta for entrant in run.able]
    try:
        module = import_module("spacecompile.benchmarks.score.torch_scores")
        yield from module.torch_scores(
            run.checkpoint, run.bundle.manifest.spec, ttas, run.labelled, progress=run.progress
        )
    except ModuleNotFoundError as error:
        raise NotMeasuredError(not_installed(error, "compile")) from error
    except CheckpointError as error:
        raise NotMeasuredError(str(error)) from error


def _why_no_torch_scores(run: Run) -> str | None:
    if not run.labelled:
        return NO_DATA
    if isinstance(run.checkpoint, str):
        return run.checkpoint
    return None if run.settings.torch_scores else NO_TORCH_SCORES


def _roofline(run: Run) -> Iterator[LimitReport]:
    """What this machine can do, and how near each variant comes to it; it reads ONNX files."""
    limits, how = run.settings.limits, run.settings.contest.how
    assert limits is not None  # `_why_no_roofline` has seen to it
    measure = import_module("spacecompile.benchmarks.limits.measure")
    chosen = measure.limit_settings(
        threads=how.threads,
        spinning=how.spinning,
        profile=limits.profile,
        duration_s=run.settings.contest.latency.duration_s,
    )
    engines = {name: engine.name for name, engine in run.race.engines.items()}
    yield from measure.measure_limits(run.bundle, run.able, engines, run.frames_HWC, chosen, progress=run.progress)


def _why_no_roofline(run: Run) -> str | None:
    limits = run.settings.limits
    if not run.able or limits is None or not (limits.roofline or limits.profile):
        return NOT_ASKED
    try:
        require_extra("compile", "the roofline, which reads graphs,")
    except MissingPartError as error:
        return str(error)
    return None


def _roofline_fields(run: Run) -> Mapping[str, Any]:
    return {"roofline": run.sections.get("roofline", UNSET), "roofline_note": run.why("roofline") or UNSET}


def _scaling(run: Run) -> Iterator[ScalingReport]:
    """How costs grow with the input's size, built and measured on the first variant's engine."""
    require_extra("compile", "scaling, which builds other sizes,")
    subject = next((entrant for entrant in run.able if no_onnx(entrant.variant) is None), None)
    if subject is None:
        raise UsageError("scaling builds ONNX files, and no variant that runs here is one. Name one with --variant.")
    scaling = import_module("spacecompile.benchmarks.limits.scaling")
    how, duration_s = run.settings.contest.how, run.settings.contest.latency.duration_s
    yield from scaling.measure_scaling(
        run.sizes,
        run.bundle.manifest.spec,
        subject.variant,
        backend=run.race.engines[subject.name].name,
        settings=scaling.scaling_settings(threads=how.threads, spinning=how.spinning, duration_s=duration_s),
        progress=run.progress,
    )


def _within(_: Run) -> Mapping[str, Any]:
    """No field of its own: `result` makes the budget and the score of several sections."""
    return {}


PROCESS_START = Step(
    name="process_start",
    measure=_start,
    requires=lambda run: None if run.settings.starts else NOT_ASKED,
)

IN_THE_RACE = (LATENCY, PACED, ENERGY)
"""Steps that need the variants loaded."""

AFTER_THE_RACE = (
    Step(
        name="throughput",
        measure=_throughput,
        requires=lambda run: None if run.settings.throughput else NOT_ASKED,
    ),
    Step(
        name="scores",
        measure=_scores,
        requires=lambda run: None if run.labelled else NOT_ASKED,
        fields=_within,
    ),
    Step(name="graphs", measure=_graphs, fields=_within),
    Step(
        name="stages",
        measure=_stages,
        requires=lambda run: run.checkpoint if isinstance(run.checkpoint, str) else None,
        fields=_within,
    ),
    Step(name="torch_scores", measure=_torch_scores, requires=_why_no_torch_scores, fields=_within),
    Step(name="roofline", measure=_roofline, requires=_why_no_roofline, fields=_roofline_fields),
    Step(
        name="scaling",
        measure=_scaling,
        requires=lambda run: None if run.able and run.sizes is not None else NOT_ASKED,
        fields=lambda run: {"scaling": run.sections.get("scaling", UNSET)},
    ),
)

STEPS = (PROCESS_START, *IN_THE_RACE, *AFTER_THE_RACE)
"""Every section, in the order in which it is measured."""
