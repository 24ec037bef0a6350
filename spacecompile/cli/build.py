"""`spacecompile build`: checkpoint to certified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacecompile.cli import console
from spacecompile.cli.flags.network import (
    ArchitectureFlag,
    ClassesFlag,
    DecoderOptionsFlag,
    EncoderDepthFlag,
    EncoderFlag,
    FrameFlag,
    ImgszFlag,
    MeanFlag,
    SpecFlag,
    StdFlag,
    spec_changes,
)
from spacecompile.cli.flags.parse import names_from_text
from spacecompile.cli.own_process import wait_passively
from spacecompile.cli.show.build import parity_line, say_passes, say_precisions
from spacecompile.cli.show.dry_run import say_dry_run
from spacecompile.cli.show.layout import megabytes, size
from spacecompile.extras import require_extra

if TYPE_CHECKING:
    from spacecompile.export.build_report import BuildReport, BuildStep
    from spacecompile.export.plan import BuildPlan


def build(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CKPT", help="Checkpoint to compile: ours, an smp state dict, or a Lightning checkpoint."
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Folder of the bundle.  [default: CHECKPOINT.spacepkg]", show_default=False
        ),
    ] = None,
    imgsz: ImgszFlag = None,
    frame: FrameFlag = None,
    mean: MeanFlag = None,
    std: StdFlag = None,
    classes: ClassesFlag = None,
    spec: SpecFlag = None,
    architecture: ArchitectureFlag = None,
    encoder: EncoderFlag = None,
    encoder_depth: EncoderDepthFlag = None,
    decoder_options: DecoderOptionsFlag = None,
    precision: Annotated[
        str, typer.Option(help="Of the variants, a list with commas: fp32, fp16, bf16, int8.")
    ] = "fp32",
    tta: Annotated[
        str, typer.Option(help="Test-time augmentation inside the variants, a list: none, d4, d4-median.")
    ] = "none,d4",
    data: Annotated[
        Path | None, typer.Option(help="Real frames for the parity check: a SPARK-format folder or one of images.")
    ] = None,
    parity_frames: Annotated[int, typer.Option(min=0, help="How many of them at most.")] = 32,
    half: Annotated[bool, typer.Option("--half", "--fp16", help="Add fp16 to --precision.")] = False,
    calibration_frames: Annotated[
        int, typer.Option(min=1, help="How many others fp16 and int8 are calibrated on at most.")
    ] = 16,
    rewrite: Annotated[bool, typer.Option("--rewrite/--no-rewrite", help="Run the exact rewrites.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle and a JSON file that are there.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, list steps and files, write nothing.")
    ] = False,
    json: Annotated[str | None, typer.Option("--json", help="Write the report to FILE, or - for stdout.")] = None,
) -> None:
    """Compile a checkpoint into a bundle, and prove every file in it against PyTorch.

    Each file must give PyTorch's answers from raw frame to box, on real and on adversarial frames; otherwise nothing is
    written and the exit code is 5.

    Example: spacecompile build ckpt.pt -o net.spacepkg --data frames
    """
    require_extra("compile", "build")
    wait_passively()
    from spacecompile.export.build import run_build
    from spacecompile.export.plan import BuildOptions, plan_build

    changes = spec_changes(
        spec=spec,
        imgsz=imgsz,
        frame=frame,
        mean=mean,
        std=std,
        classes=classes,
        architecture=architecture,
        encoder=encoder,
        encoder_depth=encoder_depth,
        decoder_options=decoder_options,
    )
    plan = plan_build(
        checkpoint,
        output=output,
        precision=(*names_from_text(precision), *(("fp16",) if half else ())),
        tta=names_from_text(tta),
        data=data,
        force=force,
        options=BuildOptions(
            rewrite=rewrite,
            spec_changes=changes,
            parity_frames=parity_frames,
            calibration_frames=calibration_frames,
        ),
    )
    console.check_json(json, force=force, output=plan.output)
    _say_plan(plan)
    if dry_run:
        say_dry_run(plan, json=json)
        return
    with console.progress_bar() as progress:
        report = run_build(plan, progress=progress, on_step=_say_step)
    _say_report(report)
    if json is not None:
        console.emit_json(report, json)


def _say_plan(plan: BuildPlan) -> None:
    spec = plan.spec
    sizes = f"frame {size(spec.frame_size_px)}, input {size(spec.input_size_px)}, {len(spec.classes)} classes"
    console.say_plain(
        f"{plan.checkpoint_path}: {megabytes(plan.checkpoint_bytes)}, {spec.architecture}, {spec.encoder}, {sizes}"
    )
    if plan.checkpoint.assumed:
        console.say_plain(f"{plan.checkpoint.format}; assumed: {'; '.join(plan.checkpoint.assumed)}")
    console.say_plain(f"variants {', '.join(variant.name for variant in plan.variants)} -> {plan.output}")


def _say_step(step: BuildStep) -> None:
    written = "" if step.bytes is None else megabytes(step.bytes)
    console.say_plain(f"  {step.name:<24} {step.seconds:6.1f} s {written:>9}  {step.note}".rstrip())


def _say_report(report: BuildReport) -> None:
    say_passes(report.rewrites)
    say_precisions(report)
    for verdict in report.parity.variants:
        console.say_plain(parity_line(verdict))
    for licence in report.licences:
        console.say_plain(f"licence: {licence}")
    console.say_plain(f"{report.path}: {megabytes(report.bytes)} in {report.seconds:.1f} s")
    console.stderr.print(
        f"next: [bold]spacecompile predict {console.quoted(report.path)} IMAGES -o out[/]", soft_wrap=True
    )
