"""The pipeline: checkpoint to certified bundle.

plan -> rewrite -> frames -> seal and export each augmentation -> reference answers -> measure what fp16 and int8 may
hold -> write each file -> parity of each file on each backend -> self-test -> manifest
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
from onnx import ModelProto

from spacecompile._version import __version__
from spacecompile.contract import (
    HEALTH_SIGNALS,
    SCHEMA_VERSION,
    Cost,
    Manifest,
    PassReport,
    Progress,
    Tta,
    Variant,
    no_progress,
)
from spacecompile.errors import OutputError
from spacecompile.export.build_report import BuildReport, BuildStep, Clock, no_steps
from spacecompile.export.bundle.provenance import licences_of, tool_versions
from spacecompile.export.bundle.selftest_writer import write_selftest
from spacecompile.export.bundle.writer import BundleWriter, bundle_writer
from spacecompile.export.choose_precisions import MEASURED, planned_precisions
from spacecompile.export.parity.certificate import (
    Judgement,
    backends_of,
    fresh_file,
    judge,
    or_why_not,
    parity_report,
    with_certificates,
)
from spacecompile.export.parity.frame_set import ParityFrame, parity_frames
from spacecompile.export.parity.reference import ExpectedAnswer, ViewByView, reference_answers
from spacecompile.export.parity.score_drop import Scoring
from spacecompile.export.parity.verdict import ParityReport, VariantParity, require_parity
from spacecompile.export.parity.worst_frame import clear_failure_report, write_failure_report
from spacecompile.export.plan import BuildOptions, BuildPlan, plan_build
from spacecompile.export.precision.files import (
    FilePrecision,
    PrecisionPlans,
    PrecisionReport,
    checked_precision,
    model_in,
)
from spacecompile.export.rewrite import rewrite_network
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.export.sealed.to_onnx import export_model, model_bytes
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.record import json_from_record
from spacecompile.runtime.threads import usable_cores

__all__ = ["PARITY_PATH", "BuildReport", "BuildStep", "build", "run_build"]

logger = logging.getLogger(__name__)

PARITY_PATH = "reports/parity.json"
PRECISION_PATH = "reports/precision.json"


def build(
    checkpoint: str | Path,
    *,
    output: str | Path | None = None,
    precision: Sequence[str] = ("fp32",),
    tta: Sequence[str] = ("none", "d4"),
    data: str | Path | None = None,
    force: bool = False,
    options: BuildOptions | None = None,
    progress: Progress = no_progress,
) -> BuildReport:
    """Compile a checkpoint into a bundle whose every file is proven against PyTorch.

    Until the last step the bundle lies in a hidden folder beside its place; an earlier bundle stays whole until then.

    Args:
        checkpoint: File to compile.
        output: Folder of the bundle; `<checkpoint>.spacepkg` in the current folder if not given.
        precision: Precisions of the variants: `fp32`, `fp16`, `bf16`, `int8`.
        tta: Test-time augmentations inside the variants: `none`, `d4`, `d4-median`.
        data: Real frames for the parity check: a SPARK-format folder or any folder of images of the frame size.
        force: Whether to replace a bundle that is already there.
        options: Settings that few builds change.
        progress: Callback for progress.

    Raises:
        CheckpointError, UsageError, DataError, OutputError: Before any work, if an argument can't be used.
        MissingPartError: If no installed backend computes in a precision.
        BuildError: If the network can't be exported, or a file is not what its precision says.
        ParityError: If a file differs from PyTorch by more than its tolerance.
    """
    plan = plan_build(checkpoint, output=output, precision=precision, tta=tta, data=data, force=force, options=options)
    return run_build(plan, progress=progress)


def run_build(
    plan: BuildPlan, *, progress: Progress = no_progress, on_step: Callable[[BuildStep], None] = no_steps
) -> BuildReport:
    """Carry out a plan.

    Args:
        plan: Checked plan from `plan_build`.
        progress: Callback for progress.
        on_step: Callback for each finished step.

    Raises:
        SpacecompileError: Same errors as `build`.
    """
    clock = Clock(on_step=on_step)
    rewritten, rewrites, cost_source, cost = _rewritten(plan, clock, progress)
    frames = _frames(plan, clock, progress)
    with bundle_writer(plan.output) as writer:
        models = _exported(plan, rewritten, clock)
        expected = _references(plan, frames, clock, progress)
        scoring = Scoring(classes=plan.spec.classes, cost=cost)
        precisions, planned = planned_precisions(
            plan, models, expected, scoring=scoring, clock=clock, progress=progress
        )
        precision = _write_files(plan, models, precisions, planned, writer, clock)
        variants, parity, medians_ms = _certificate(plan, expected, scoring, writer, clock, progress)
        with clock.step("self-test") as step:
            write_selftest(writer, {tta: expected[tta] for tta in dict.fromkeys(variant.tta for variant in variants)})
            step.bytes = sum(fact.bytes for path, fact in writer.facts.items() if path.startswith("selftest/"))
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=plan.name,
            spec=plan.spec,
            health_signals=HEALTH_SIGNALS,
            variants=variants,
            files=dict(sorted(writer.facts.items())),
            source_sha256=plan.checkpoint.sha256,
            source_format=plan.checkpoint.format,
            training=plan.checkpoint.training,
            rewrites=rewrites,
            cost_source=cost_source,
            cost=cost,
            tools=tool_versions(),
            licences=licences_of(plan.spec),
        )
        writer.write_manifest(json_from_record(manifest))
    clear_failure_report(plan.output)
    return BuildReport(
        path=str(plan.output),
        bytes=sum(fact.bytes for fact in writer.facts.values()),
        seconds=clock.elapsed_s(),
        steps=tuple(clock.steps),
        variants=variants,
        rewrites=rewrites,
        cost_source=cost_source,
        cost=cost,
        precision=precision,
        parity=parity,
        medians_ms=medians_ms,
        licences=manifest.licences,
    )


def _rewritten(
    plan: BuildPlan, clock: Clock, progress: Progress
) -> tuple[MultiTaskNetwork, tuple[PassReport, ...], Cost, Cost]:
    """The network to export, the pass reports, and the cost before and after."""
    network = plan.checkpoint.network
    with clock.step("rewrite" if plan.options.rewrite else "count") as step:
        # The parity gate guards the result, so a pass that can't prove itself costs its gain and not the build.
        rewritten, reports = rewrite_network(network, skip_unproven=True, progress=progress)
        before, after = reports[0].before, reports[-1].after
        if not plan.options.rewrite:
            step.note = f"without rewrites: {_saving(before, 'instead of', after)}"
            return network, (), before, before
        step.note = _saving(before, "->", after)
    return rewritten, reports, before, after


def _saving(first: Cost, relation: str, second: Cost) -> str:
    return (
        f"{first.macs_fvcore / 1e9:.4f} {relation} {second.macs_fvcore / 1e9:.4f} GMAC (fvcore), "
        f"{first.params / 1e6:.4f} {relation} {second.params / 1e6:.4f} M parameters"
    )


def _frames(plan: BuildPlan, clock: Clock, progress: Progress) -> tuple[ParityFrame, ...]:
    with clock.step("frames") as step:
        frames = parity_frames(
            plan.spec.frame_size_px, data=plan.data, count=plan.options.parity_frames, progress=progress
        )
        kinds = [frame.kind for frame in frames]
        step.note = " and ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        if "real" not in kinds:
            step.note += "; give real ones with --data"
    return frames


def augmentations_to_export(plan: BuildPlan) -> list[Tta]:
    """Every augmentation of the bundle, after the plain graph where ranges have to be measured on it."""
    measured: list[Tta] = ["none"] if any(variant.precision in MEASURED for variant in plan.variants) else []
    return list(dict.fromkeys([*measured, *(variant.tta for variant in plan.variants)]))


def _exported(plan: BuildPlan, network: MultiTaskNetwork, clock: Clock) -> dict[Tta, ModelProto]:
    """The float32 graph of each of `augmentations_to_export`."""
    models: dict[Tta, ModelProto] = {}
    for tta in augmentations_to_export(plan):
        with clock.step("export" if tta == "none" else f"export {tta}") as step:
            # The spec of the network that is sealed: a rewrite may have moved a scale or a threshold into its weights.
            models[tta] = export_model(SealedGraph(network, network.spec, tta), plan.spec.frame_size_px)
            step.bytes = models[tta].ByteSize()
    return models


def _write_files(
    plan: BuildPlan,
    models: Mapping[Tta, ModelProto],
    plans: PrecisionPlans,
    report: PrecisionReport,
    writer: BundleWriter,
    clock: Clock,
) -> PrecisionReport:
    """Write the graph of every variant, and what precision it really has."""
    files: dict[str, FilePrecision] = {}
    for variant in plan.variants:
        if variant.path in files:
            continue
        with clock.step(f"write {variant.name}") as step:
            facts = {
                "name": plan.name,
                "variant": variant.path.split("/")[1],
                "classes": _compact(plan.spec.classes),
                "spec": _compact(plan.spec),
                "spacecompile": __version__,
                "source_sha256": plan.checkpoint.sha256,
            }
            content = model_bytes(model_in(variant.precision, models[variant.tta], plans), facts)
            files[variant.path] = checked_precision(variant.name, variant.precision, content)
            writer.write(variant.path, content)
            step.bytes = len(content)
            step.note = ", ".join(
                f"{share:.1%} of the multiply-adds in {name}" for name, share in files[variant.path].mac_shares.items()
            )
    complete = msgspec.structs.replace(report, files=dict(sorted(files.items())))
    writer.write(PRECISION_PATH, json_from_record(complete))
    return complete


def _references(
    plan: BuildPlan, frames: Sequence[ParityFrame], clock: Clock, progress: Progress
) -> dict[Tta, tuple[ExpectedAnswer, ...]]:
    """PyTorch's answers for every augmentation that the bundle has."""
    expected, network = {}, ViewByView(plan.checkpoint.network)
    for tta in dict.fromkeys(variant.tta for variant in plan.variants):
        with clock.step("reference" if tta == "none" else f"reference {tta}") as step:
            expected[tta] = reference_answers(network, plan.spec, tta, frames, progress=progress)
            step.note = f"{len(expected[tta])} frames in PyTorch"
    return expected


def _certificate(
    plan: BuildPlan,
    expected: dict[Tta, tuple[ExpectedAnswer, ...]],
    scoring: Scoring,
    writer: BundleWriter,
    clock: Clock,
    progress: Progress,
) -> tuple[tuple[Variant, ...], ParityReport, dict[str, float]]:
    """Judge every file as it lies on the disk: the certified variants, the report, and the median times."""
    verdicts: list[VariantParity] = []
    medians_ms: dict[str, float] = {}
    certified: dict[str, list[str]] = {}
    threads = usable_cores()
    for variant in plan.variants:
        content = (writer.folder / variant.path).read_bytes()
        first, *further = backends_of(variant)
        judged_here = partial(judge, variant, content, expected[variant.tta], scoring=scoring, threads=threads)
        with clock.step(f"parity {variant.name}, {first.name}") as step, fresh_file(variant.name):
            judged = judged_here(entry=first, picture=True, progress=progress)
            _require(judged, plan, writer)
            step.note = _verdict_note(judged)
        verdicts.append(judged.verdict)
        medians_ms[f"{variant.name}, {first.name}"] = judged.median_ms
        certified[variant.name] = [first.name]
        for entry in further:
            with clock.step(f"parity {variant.name}, {entry.name}") as step:
                also = or_why_not(partial(judged_here, entry=entry, progress=progress))
                step.note = f"not certified: {also}" if isinstance(also, str) else _verdict_note(also)
            if isinstance(also, Judgement):
                verdicts.append(also.verdict)
                medians_ms[f"{variant.name}, {entry.name}"] = also.median_ms
                certified[variant.name] += [entry.name] if also.verdict.passed else []
    report = parity_report(verdicts, threads=threads)
    writer.write(PARITY_PATH, json_from_record(report))
    return with_certificates(plan.variants, certified), report, medians_ms


def _require(judged: Judgement, plan: BuildPlan, writer: BundleWriter) -> None:
    """Put the picture of the worst frame into the bundle, or refuse a variant that fails, its picture beside it."""
    verdict, picture = judged.verdict, judged.worst_png or b""
    if verdict.passed:
        writer.write(worst_frame_path(verdict.variant), picture)
        return
    place = None
    try:
        place = write_failure_report(plan.output, verdict, picture)
    except OutputError as error:
        logger.warning("the report of the failed certificate is lost: %s", error)
    require_parity(verdict, report=None if place is None else str(place))


def worst_frame_path(variant: str) -> str:
    """Where the bundle holds the picture of a variant's worst frame."""
    return f"reports/worst-{variant}.png"


def _verdict_note(judged: Judgement) -> str:
    frames, milliseconds = sum(judged.verdict.num_frames.values()), f"median {judged.median_ms:.0f} ms"
    if judged.verdict.passed:
        return f"{frames} frames agree, {milliseconds}"
    return f"not certified: {'; '.join(judged.verdict.failures)}; {milliseconds}"


def _compact(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
