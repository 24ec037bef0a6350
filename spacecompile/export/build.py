"""The pipeline: checkpoint to certified bundle.

plan -> rewrite -> for each variant: seal, export -> reference answers -> parity of each file -> self-test -> manifest
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

from spacecompile._version import __version__
from spacecompile.contract import (
    HEALTH_SIGNALS,
    SCHEMA_VERSION,
    Cost,
    Manifest,
    PassReport,
    Progress,
    Record,
    Tta,
    Variant,
    no_progress,
)
from spacecompile.export.bundle_writer import BundleWriter, bundle_writer
from spacecompile.export.facts import licences_of, tool_versions
from spacecompile.export.frames import ParityFrame, parity_frames
from spacecompile.export.parity import ParityReport, VariantParity, check_parity, require_parity
from spacecompile.export.plan import BuildOptions, BuildPlan, plan_build
from spacecompile.export.reference import REFERENCE_THREADS, ExpectedAnswer, ViewByView, expected_answers
from spacecompile.export.rewrite import rewrite_network
from spacecompile.export.sealed import SealedGraph
from spacecompile.export.selftest import write_selftest
from spacecompile.export.steps import BuildReport, BuildStep, Clock, no_steps
from spacecompile.export.to_onnx import export_onnx
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.runtime.backends.onnxruntime_ import OnnxRuntimeBackend
from spacecompile.runtime.threads import usable_cores

__all__ = ["PARITY_PATH", "BuildReport", "BuildStep", "build", "run_build"]

PARITY_PATH = "reports/parity.json"


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
        precision: Of the variants: `fp32`.
        tta: Test-time augmentations inside the variants: `none`, `d4`, `d4-median`.
        data: Real frames for the parity check: a SPARK-format folder or any folder of images of the frame size.
        force: Replace a bundle that is there.
        options: What few builds change.
        progress: Called with the name of the long step that runs.

    Raises:
        CheckpointError, UsageError, DataError, OutputError: Before any work, if an argument can't be used.
        BuildError: If a rewrite can't prove itself, or the network can't be exported.
        ParityError: If a file differs from PyTorch by more than its tolerance.
    """
    plan = plan_build(checkpoint, output=output, precision=precision, tta=tta, data=data, force=force, options=options)
    return run_build(plan, progress=progress)


def run_build(
    plan: BuildPlan, *, progress: Progress = no_progress, on_step: Callable[[BuildStep], None] = no_steps
) -> BuildReport:
    """Carry out a plan.

    Args:
        plan: Of `plan_build`.
        progress: As in `build`.
        on_step: Called after each step.

    Raises:
        SpacecompileError: As `build`.
    """
    clock = Clock(on_step=on_step)
    rewritten, rewrites, cost_source, cost = _rewritten(plan, clock, progress)
    frames = _frames(plan, clock, progress)
    with bundle_writer(plan.output) as writer:
        for variant in plan.variants:
            _export(plan, variant, rewritten, writer, clock)
        expected = _references(plan, frames, clock, progress)
        parity = _certificate(plan, expected, writer, clock, progress)
        with clock.step("self-test") as step:
            write_selftest(writer, expected)
            step.bytes = sum(fact.bytes for path, fact in writer.facts.items() if path.startswith("selftest/"))
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=plan.name,
            spec=plan.spec,
            health_signals=HEALTH_SIGNALS,
            variants=plan.variants,
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
        writer.write_manifest(_json(manifest))
    return BuildReport(
        path=str(plan.output),
        bytes=sum(fact.bytes for fact in writer.facts.values()),
        seconds=clock.elapsed_s(),
        steps=tuple(clock.steps),
        variants=plan.variants,
        rewrites=rewrites,
        cost_source=cost_source,
        cost=cost,
        parity=parity,
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


def _export(plan: BuildPlan, variant: Variant, network: MultiTaskNetwork, writer: BundleWriter, clock: Clock) -> None:
    facts = {
        "name": plan.name,
        "variant": variant.name,
        "classes": _compact(plan.spec.classes),
        "spec": _compact(plan.spec),
        "spacecompile": __version__,
        "source_sha256": plan.checkpoint.sha256,
    }
    with clock.step(f"export {variant.name}") as step:
        # The spec of the network that is sealed: a rewrite may have moved a scale or a threshold into its weights.
        graph = SealedGraph(network, network.spec, variant.tta)
        model_bytes = export_onnx(graph, plan.spec.frame_size_px, facts=facts, opset=variant.opset)
        writer.write(variant.path, model_bytes)
        step.bytes = len(model_bytes)


def _references(
    plan: BuildPlan, frames: Sequence[ParityFrame], clock: Clock, progress: Progress
) -> dict[Tta, tuple[ExpectedAnswer, ...]]:
    """PyTorch's answers for every augmentation that the bundle has."""
    expected, network = {}, ViewByView(plan.checkpoint.network)
    for tta in dict.fromkeys(variant.tta for variant in plan.variants):
        with clock.step("reference" if tta == "none" else f"reference {tta}") as step:
            graph = SealedGraph(network, plan.spec, tta)
            expected[tta] = expected_answers(graph, frames, workers=usable_cores(), progress=progress)
            step.note = f"{len(expected[tta])} frames in PyTorch"
    return expected


def _certificate(
    plan: BuildPlan,
    expected: dict[Tta, tuple[ExpectedAnswer, ...]],
    writer: BundleWriter,
    clock: Clock,
    progress: Progress,
) -> ParityReport:
    """Judge every file as it lies on the disk, and write the report."""
    verdicts: list[VariantParity] = []
    threads = usable_cores()
    for variant in plan.variants:
        with clock.step(f"parity {variant.name}") as step:
            verdict = check_parity(
                variant.name,
                (writer.folder / variant.path).read_bytes(),
                expected[variant.tta],
                tolerance=variant.tolerance,
                threads=threads,
                progress=progress,
            )
            require_parity(verdict)
            verdicts.append(verdict)
            step.note = f"{sum(verdict.num_frames.values())} frames agree"
    report = ParityReport(
        reference=f"torch {torch.__version__}, eager, float32, before any rewrite",
        backend=f"{OnnxRuntimeBackend.name} {OnnxRuntimeBackend.version}",
        reference_threads=REFERENCE_THREADS,
        backend_threads=threads,
        variants=tuple(verdicts),
    )
    writer.write(PARITY_PATH, _json(report))
    return report


def _json(record: Record) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record, order="deterministic"), indent=2) + b"\n"


def _compact(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()
