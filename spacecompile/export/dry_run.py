"""What a build would do and write, said before it does anything."""

from __future__ import annotations

from importlib.util import find_spec

from spacecompile.contract import ModelSpec, Tta, Variant
from spacecompile.export.build import (
    PARITY_PATH,
    PRECISION_PATH,
    augmentations_to_export,
    worst_frame_path,
)
from spacecompile.export.bundle.selftest_writer import NUM_FRAMES
from spacecompile.export.parity.certificate import backends_of
from spacecompile.export.parity.frame_set import adversarial_frames, images_of
from spacecompile.export.plan import BuildPlan
from spacecompile.export.rewrite.pipeline import PASSES
from spacecompile.record import Record
from spacecompile.runtime.bundle import MANIFEST_NAME
from spacecompile.runtime.selftest import EXPECTED_PATH


class PlannedStep(Record):
    """One step that would run.

    Attributes:
        name: Name that the build reports when the step ends.
        does: Work of the step in a few words.
    """

    name: str
    does: str


class PlannedFile(Record):
    """One file that would be written.

    Attributes:
        path: Path relative to the bundle, with forward slashes.
        kind: Content of the file in a few words.
    """

    path: str
    kind: str


class DryRun(Record):
    """What a build would do.

    Attributes:
        checkpoint: File to compile.
        format: Kind of the checkpoint.
        assumed: Facts that a foreign checkpoint does not tell and that were taken from the defaults.
        output: Folder of the bundle.
        variants, spec: Variants and spec of the bundle.
        steps: Steps in order.
        files: Files of the bundle in the order in which they are written.
    """

    checkpoint: str
    format: str
    assumed: tuple[str, ...]
    output: str
    variants: tuple[Variant, ...]
    spec: ModelSpec
    steps: tuple[PlannedStep, ...]
    files: tuple[PlannedFile, ...]


def dry_run(plan: BuildPlan) -> DryRun:
    """Say what `run_build` would do with a plan. Reads the names of the frames in `plan.data`; writes nothing.

    Args:
        plan: Plan from `plan_build`, which has checked it already.
    """
    return DryRun(
        checkpoint=str(plan.checkpoint_path),
        format=plan.checkpoint.format,
        assumed=plan.checkpoint.assumed,
        output=str(plan.output),
        variants=plan.variants,
        spec=plan.spec,
        steps=_steps(plan),
        files=_files(plan),
    )


def _steps(plan: BuildPlan) -> tuple[PlannedStep, ...]:
    passes = ", ".join(step.name for step in PASSES)
    first = {"rewrite": f"exact passes, each proven in float64: {passes}"}
    if not plan.options.rewrite:
        first = {"count": "cost of the network, which is exported as it is"}
    steps = {
        **first,
        "frames": _frames_text(plan),
        **{_named("export", tta): "sealed graph in float32" for tta in augmentations_to_export(plan)},
        **{
            _named("reference", tta): "the same frames in PyTorch, before any rewrite"
            for tta in dict.fromkeys(variant.tta for variant in plan.variants)
        },
        **_measuring_steps(plan),
        **{f"write {variant.name}": f"its graph to {variant.path}" for variant in _with_own_file(plan)},
        **{
            f"parity {variant.name}, {entry.name}": "the file from the disk against PyTorch"
            for variant in plan.variants
            for entry in backends_of(variant)
        },
        "self-test": f"{NUM_FRAMES} of the frames with PyTorch's answers, for the target",
    }
    return tuple(PlannedStep(name=name, does=does) for name, does in steps.items())


def _named(step: str, tta: Tta) -> str:
    return step if tta == "none" else f"{step} {tta}"


def _measuring_steps(plan: BuildPlan) -> dict[str, str]:
    asked = {variant.precision for variant in plan.variants}
    steps = {
        "measure fp16": "the largest value of every tensor, which decides what stays float32",
        "measure int8": "ranges and sensitivity of every layer, which decide what becomes int8",
    }
    measured = {name: does for name, does in steps.items() if name.removeprefix("measure ") in asked}
    return {"calibration frames": "other frames than those that parity is judged on", **measured} if measured else {}


def _with_own_file(plan: BuildPlan) -> list[Variant]:
    """Variants that a file is written for: of those that share one, the first."""
    first: dict[str, Variant] = {}
    for variant in plan.variants:
        first.setdefault(variant.path, variant)
    return list(first.values())


def _frames_text(plan: BuildPlan) -> str:
    count = plan.options.parity_frames
    if plan.data is not None:
        natural = f"{min(count, len(images_of(plan.data)))} real ones of {plan.data}"
    elif find_spec("trimesh") is None or find_spec("embreex") is None:
        natural = "no rendered ones, which need the render extra"
    else:
        natural = f"{count} rendered ones"
    return f"{natural}, and {len(adversarial_frames((1, 1)))} adversarial ones"


def _files(plan: BuildPlan) -> tuple[PlannedFile, ...]:
    # Two variants may share one file: what a graph computes in can be the engine's choice.
    graphs = {variant.path: f"sealed graph, ONNX opset {variant.opset}, {variant.name}" for variant in plan.variants}
    frames = {f"selftest/frame-{index}.png": "frame of the self-test" for index in range(NUM_FRAMES)}
    kinds = {
        **graphs,
        PRECISION_PATH: "what was measured for fp16 and int8, and the types of every file",
        **{worst_frame_path(variant.name): "where the file is furthest from PyTorch" for variant in plan.variants},
        PARITY_PATH: "certificate: every file against PyTorch",
        **frames,
        EXPECTED_PATH: "PyTorch's answers to these frames",
        MANIFEST_NAME: "spec, variants, costs and the SHA-256 of every other file",
    }
    return tuple(PlannedFile(path=path, kind=kind) for path, kind in kinds.items())
