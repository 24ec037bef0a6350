"""`spacecompile train`: labelled frames to checkpoint."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from spacecompile.cli import console
from spacecompile.cli.flags.command_line import is_given, typed_command, typed_flags
from spacecompile.cli.flags.parse import channels_from_text, names_from_text, size_px_from_text
from spacecompile.cli.own_process import wait_passively
from spacecompile.cli.show.layout import megabytes
from spacecompile.errors import InterruptedRunError, UsageError
from spacecompile.extras import require_extra

if TYPE_CHECKING:
    from spacecompile.train.loop import EpochReport, StepReport
    from spacecompile.train.processes import Launch
    from spacecompile.train.run import TrainJob, TrainReport

# One group per settings class, or per part of one: TrainJob, Recipe (schedule, views, losses, what stays), ModelSpec.
_START = partial(typer.Option, rich_help_panel="What to start from")
_SCHEDULE = partial(typer.Option, rich_help_panel="Recipe: schedule")
_VIEWS = partial(typer.Option, rich_help_panel="Recipe: views of the frames")
_LOSSES = partial(typer.Option, rich_help_panel="Recipe: losses")
_FROZEN = partial(typer.Option, rich_help_panel="Recipe: frozen parts and batch norm")
_NETWORK = partial(typer.Option, rich_help_panel="Network")
_MACHINE = partial(typer.Option, rich_help_panel="Frames and machine")

_KEPT_ON_RESUME = ("recipe", "teacher", "encoder_weights", "val_frames", "limit_frames")
"""Flags beside those of recipe and network that a resumed run takes from its folder."""
CHOICES = {
    "augment": ("none", "light", "medium", "heavy"),
    "cache": ("auto", "ram", "disk", "none"),
    "class_pooling": ("mean", "mask"),
}


def train(
    ctx: typer.Context,
    *,
    data: Annotated[Path, typer.Option("--data", help="Folder in the SPARK format with the splits train and val.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output, with its recipe.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an earlier run and the JSON file.")] = False,
    json: Annotated[
        str | None, typer.Option("--json", help="Write the result as JSON to FILE, or - for stdout.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write event files to OUTPUT/tensorboard as well.")
    ] = False,
    recipe: Annotated[
        str | None, _START(help="Named recipe, or its .json file: network and numbers that no flag gives.")
    ] = None,
    encoder_weights: Annotated[
        str | None,
        _START(help="Pretrained encoder: imagenet, from an installed package or the hub, or a FILE with its weights."),
    ] = None,
    init: Annotated[
        Path | None, _START(help="Checkpoint to take weights and network from, or a run's last.pt.")
    ] = None,
    transfer: Annotated[
        bool, _START("--transfer", help="Take what fits of --init's weights; its network may be another.")
    ] = False,
    teacher: Annotated[
        Path | None, _START(help="Checkpoint to imitate as well: its answers, averaged over eight D4 views.")
    ] = None,
    epochs: Annotated[int, _SCHEDULE(help="Passes over the training frames.")] = 30,
    batch_size: Annotated[int, _SCHEDULE(help="Frames per step.")] = 16,
    time_limit_min: Annotated[
        float, _SCHEDULE(help="Minutes of training; the learning rate then follows the clock. 0 for none.")
    ] = 0.0,
    lr: Annotated[float, _SCHEDULE(help="Peak learning rate of decoder and heads.")] = 5e-3,
    encoder_lr_scale: Annotated[
        float, _SCHEDULE(help="Encoder's share of --lr: 0.1 protects pretrained weights, 1.0 from scratch.")
    ] = 0.1,
    weight_decay: Annotated[float, _SCHEDULE(help="Weight decay of AdamW; norms and biases are left alone.")] = 1e-4,
    warmup_epochs: Annotated[float, _SCHEDULE(help="Epochs in which the learning rate rises from zero.")] = 1.0,
    clip: Annotated[float, _SCHEDULE(help="Largest gradient norm.")] = 1.0,
    ema: Annotated[float, _SCHEDULE(help="Decay per step of averaged weights, such as 0.998; 0 for none.")] = 0.0,
    seed: Annotated[int, _SCHEDULE(help="Seed of weights, order of the frames and augmentation.")] = 0,
    amp: Annotated[bool, _SCHEDULE("--amp/--no-amp", help="Mixed precision where the device has it.")] = True,
    augment: Annotated[
        str,
        _VIEWS(help="none; light: flips, turns, small rotations; medium: also scale, exposure, noise; heavy: more."),
    ] = "light",
    zoom: Annotated[
        float, _VIEWS(help="Share of views cut around the craft at the start, falling to 0; 1 helps from scratch.")
    ] = 0.0,
    zoom_until: Annotated[float, _VIEWS(help="Part of the run after which only whole frames are shown.")] = 0.7,
    dice_weight: Annotated[float, _LOSSES(help="Weight of the Dice loss on the parts.")] = 1.0,
    bce_weight: Annotated[float, _LOSSES(help="Weight of the cross-entropy on the parts' pixels.")] = 1.0,
    lovasz_weight: Annotated[float, _LOSSES(help="Weight of the Lovasz hinge on the parts; 0 for none.")] = 0.0,
    class_weight: Annotated[float, _LOSSES(help="Weight of the classification loss.")] = 1.0,
    label_smoothing: Annotated[float, _LOSSES(help="Label smoothing of the classification loss.")] = 0.0,
    box_loss_weight: Annotated[
        float | None,
        _LOSSES(
            help="Weight of the loss on the mask's box, reached between 30 and 50 % of the run; without masks at once.",
            show_default="1 without masks, else 0",
        ),
    ] = None,
    teacher_weight: Annotated[float, _LOSSES(help="Weight of the distance to --teacher's answers.")] = 1.0,
    freeze_stages: Annotated[
        int, _FROZEN(help="Encoder stages, the stem included, that stay as they begin; 0 trains all.")
    ] = 0,
    freeze_norm: Annotated[
        bool, _FROZEN("--freeze-norm", help="Keep batch norm's running statistics, which small batches need.")
    ] = False,
    sync_batchnorm: Annotated[
        bool | None,
        _FROZEN(
            "--sync-batchnorm/--no-sync-batchnorm",
            help="Take batch statistics over all processes.",
            show_default="on GPUs, not on CPUs",
        ),
    ] = None,
    imgsz: Annotated[str, _NETWORK(help="Input size in pixels: SIDE or HEIGHTxWIDTH, multiples of 32.")] = "512",
    frame: Annotated[str, _NETWORK(help="Camera frame size in pixels, HEIGHTxWIDTH.")] = "1024x1024",
    mean: Annotated[str | None, _NETWORK(help="Mean r,g,b of frames scaled to 0..1.")] = None,
    std: Annotated[str | None, _NETWORK(help="Standard deviation r,g,b of frames scaled to 0..1.")] = None,
    classes: Annotated[
        str | None, _NETWORK(help="Class names a,b,... in the classifier's order.", show_default="the format's")
    ] = None,
    class_pooling: Annotated[
        str, _NETWORK(help="What the classifier averages: mean, the whole frame; mask, what the parts cover.")
    ] = "mean",
    dropout: Annotated[float, _NETWORK(help="Dropout probability in the classification head.")] = 0.2,
    val_frames: Annotated[int, _MACHINE(min=0, help="Frames to validate on per epoch; 0 for all.")] = 0,
    limit_frames: Annotated[int, _MACHINE(min=0, help="Training frames to use; 0 for all.")] = 0,
    cache: Annotated[
        str,
        _MACHINE(
            help="Where decoded frames stay: ram, this run's memory; disk, one file beside the data for all runs and "
            "processes; none; auto, ram if they fit."
        ),
    ] = "auto",
    workers: Annotated[
        int, _MACHINE(min=0, help="Processes that decode frames; 0 for threads. `data bench` says which is faster.")
    ] = 0,
    device: Annotated[str, _MACHINE(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, _MACHINE(min=0, help="CPU threads; 0 for torch's choice.")] = 0,
) -> None:
    """Train the network on labelled frames and store a checkpoint that `build` takes.

    The defaults are the published recipe, which starts from pretrained weights: --encoder-weights imagenet. From
    scratch, use --encoder-lr-scale 1 --zoom 1 and a learning rate near 5e-4. Interrupt at any time and go on with
    --resume. Under torchrun all processes train one network; each takes its share of --batch-size.

    Example: spacecompile train --data frames -o runs/first --imgsz 256 --encoder-lr-scale 1 --ema 0.998
    """
    wait_passively()
    require_extra("train", "train")
    console.check_json(json, force=force, output=output)
    import torch

    _check_flags(ctx)
    torch.set_num_threads(threads or torch.get_num_threads())
    launch, is_first = _launch_of_torchrun()
    report = _run(_job(ctx, launch), is_first=is_first)
    if json is not None and is_first:
        console.emit_json(_result(report), json)


def _check_flags(ctx: typer.Context) -> None:
    from spacecompile.cli.flags.recipe import fields_by_flag
    from spacecompile.contract import ModelSpec
    from spacecompile.train.recipe import Recipe

    for name, choices in CHOICES.items():
        if ctx.params[name] not in choices:
            flag = name.replace("_", "-")
            raise UsageError(f"{name} is {ctx.params[name]!r}; choose one of {', '.join(choices)} with --{flag}.")
    typed = typed_flags(ctx)
    kept = {*_KEPT_ON_RESUME, *fields_by_flag(Recipe, typed), *fields_by_flag(ModelSpec, typed)}
    clash = [flag for flag in typed if flag in kept]
    if ctx.params["resume"] and clash:
        flags = ", ".join("--" + name.replace("_", "-") for name in clash)
        raise UsageError(f"--resume keeps the recipe, network and frames of the run; leave out {flags}, or start anew.")
    if ctx.params["teacher"] is None and is_given(ctx, "teacher_weight"):
        raise UsageError(
            "--teacher-weight weighs a teacher's answers, and there is no --teacher. Name one, or leave it out."
        )


def _job(ctx: typer.Context, launch: Launch | None) -> TrainJob:
    from spacecompile.cli.flags.recipe import fields_by_flag, fields_of_flags, with_recipe
    from spacecompile.train.initial_network import NETWORK_AND_HEADS
    from spacecompile.train.recipe import Recipe
    from spacecompile.train.run import TrainJob

    given: dict[str, Any] = ctx.params
    typed = typed_flags(ctx)
    numbers = Recipe(**{field: given[flag] for flag, field in fields_by_flag(Recipe, given).items()})
    changes = _spec_changes(given)
    if given["init"] is not None:  # whose own values hold wherever no flag says otherwise
        changes = {name: value for name, value in changes.items() if name in fields_of_flags(typed)}
    if given["recipe"] is not None:
        whole = ("input_size_px", *(NETWORK_AND_HEADS if given["transfer"] else ()))
        numbers, changes = with_recipe(given["recipe"], recipe=numbers, spec_changes=changes, given=typed, whole=whole)
    job = {field.name: given[field.name] for field in fields(TrainJob) if field.name in given}
    return TrainJob(**job | {"recipe": numbers}, spec_changes=changes, command=typed_command(ctx), launch=launch)


def _launch_of_torchrun() -> tuple[Launch | None, bool]:
    """How torchrun started this process, if it did, and whether it is the one that talks and writes."""
    import torch

    from spacecompile.train.processes import Launch

    if not torch.distributed.is_torchelastic_launched():
        return None, True
    processes, total = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return Launch(processes=processes, nodes=total // processes), os.environ["RANK"] == "0"


def _run(job: TrainJob, *, is_first: bool) -> TrainReport:
    from spacecompile.train.loop import Callbacks
    from spacecompile.train.run import train as run_training

    start_s, state_before = time.perf_counter(), _state_of(job.output)
    with _shown(is_first=is_first) as view:
        callbacks = Callbacks(on_step=view.on_step, on_epoch=view.on_epoch)
        try:
            report = run_training(job, callbacks=callbacks, progress=view.on_progress)
        except KeyboardInterrupt as error:
            has_state = _state_of(job.output) not in (None, None if job.resume else state_before)
            raise _interrupted(job, has_state=has_state) from error
    if is_first:
        _say_result(report, data=job.data, wall_s=time.perf_counter() - start_s)
    return report


def _rate(report: StepReport | EpochReport) -> str:
    """How fast the epoch is, and how much of its time frames are waited for."""
    return f"{report.frames_per_s:.1f} frames/s ({report.waiting_share:.0%} of the time waiting for frames)"


@dataclass
class _View:
    """One moving bar, and one lasting line per epoch, from the first process only."""

    bars: Progress
    is_first: bool

    def __post_init__(self) -> None:
        self._tasks: dict[str, Any] = {}

    def on_step(self, report: StepReport) -> None:
        losses = " ".join(f"{name} {value:.4f}" for name, value in report.losses.items())
        note = f"{losses}  {_rate(report)}  run {report.run_share:.0%}"
        self._update(f"epoch {report.epoch}/{report.epochs}", report.step, report.steps, note)

    def on_epoch(self, report: EpochReport) -> None:
        if not self.is_first:
            return
        scores = " ".join(f"{name} {getattr(report.scores, name):.4f}" for name in ("s_cls", "s_det", "s_seg", "s_acc"))
        losses = " ".join(f"{name} {value:.4f}" for name, value in report.losses.items())
        mark = " best" if report.is_best else ""
        console.say_line(
            f"epoch {report.epoch}/{report.epochs}  {losses}  {scores}  lr {report.lr:.2e}  "
            f"{_rate(report)}  {report.elapsed_s:.0f} s{mark}"
        )

    def on_progress(self, step: str, done: int, total: int) -> None:
        self._update(step, done, total, "")

    def _update(self, step: str, done: int, total: int, note: str) -> None:
        if step not in self._tasks:
            for task in self._tasks.values():
                self.bars.remove_task(task)
            self._tasks = {step: self.bars.add_task(step, total=total, note=note)}
        self.bars.update(self._tasks[step], completed=done, note=note)


@contextmanager
def _shown(*, is_first: bool) -> Iterator[_View]:
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[note]}"))
    with Progress(
        *columns, TimeRemainingColumn(), console=console.stderr, transient=True, disable=not is_first
    ) as bars:
        yield _View(bars, is_first=is_first)


def _spec_changes(given: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "input_size_px": size_px_from_text(given["imgsz"], "--imgsz"),
        "frame_size_px": size_px_from_text(given["frame"], "--frame"),
        "dropout": given["dropout"],
        "class_pooling": given["class_pooling"],
    }
    if given["classes"] is not None:
        changes["classes"] = names_from_text(given["classes"])
    channels = {name: given[name] for name in ("mean", "std") if given[name] is not None}
    return changes | {name: channels_from_text(text, f"--{name}") for name, text in channels.items()}


def _state_of(output: Path) -> tuple[int, int] | None:
    """What tells one state of a run from another; None without one."""
    try:
        status = (output / "last.pt").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _interrupted(job: TrainJob, *, has_state: bool) -> InterruptedRunError:
    if has_state:
        command = ["spacecompile", "train", "--data", str(job.data), "-o", str(job.output), "--resume"]
        return InterruptedRunError(f"stopped; go on with: {shlex.join(command)}")
    return InterruptedRunError(
        "stopped before the first epoch was done; nothing was kept. Give the same command again."
    )


def _say_result(report: TrainReport, *, data: Path, wall_s: float) -> None:
    from spacecompile.train.run import CALIBRATED_NAME

    scores = report.scores
    console.say_line(
        f"{report.checkpoint}  {megabytes(report.checkpoint_bytes, 2)}  trained {report.elapsed_s:.0f} s  "
        f"this call {wall_s:.0f} s"
    )
    console.say_line(
        f"s_cls {scores.s_cls:.4f}  s_det {scores.s_det:.4f} (before calibration {report.s_det_before:.4f})  "
        f"s_seg {scores.s_seg:.4f}  s_acc {scores.s_acc:.4f}  s_final {scores.s_final:.4f}  on {scores.frames} frames"
    )
    console.say_line(f"page: {report.checkpoint.with_name('report.html')}")
    calibrated = report.checkpoint.with_name(CALIBRATED_NAME)
    console.say_line(
        f"next: [bold]spacecompile calibrate {console.quoted(report.checkpoint)} --data {console.quoted(data)} "
        f"-o {console.quoted(calibrated)}[/], then [bold]spacecompile build {console.quoted(calibrated)}[/]"
    )


def _result(report: TrainReport) -> dict[str, Any]:
    return {
        "checkpoint": str(report.checkpoint),
        "checkpoint_bytes": report.checkpoint_bytes,
        "elapsed_s": report.elapsed_s,
        "s_det_before": report.s_det_before,
        "scores": report.scores,
    }
