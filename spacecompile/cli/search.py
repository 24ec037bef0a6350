"""`spacecompile search`: which network, and which numbers to train it with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from spacecompile.cli import console
from spacecompile.cli.flags.command_line import typed_command
from spacecompile.cli.flags.parse import names_from_text, size_px_from_text
from spacecompile.cli.own_process import wait_passively
from spacecompile.extras import require_extra

if TYPE_CHECKING:
    from spacecompile.search.results import Outcome, SearchResult
    from spacecompile.search.study import SearchJob
    from spacecompile.train.named_recipes import NamedRecipe
    from spacecompile.train.recipe import Recipe

app = typer.Typer(no_args_is_help=True, help="Search for networks and for the numbers to train them with.")

DataFlag = Annotated[Path, typer.Option("--data", help="Folder in the SPARK format with the splits train and val.")]
OutputFlag = Annotated[Path, typer.Option("-o", "--output", help="Folder of the search.")]
EpochsFlag = Annotated[int, typer.Option(help="Passes over the training frames, per candidate.")]
BatchFlag = Annotated[int, typer.Option(help="Frames per step.")]
LrFlag = Annotated[float | None, typer.Option(help="Peak learning rate; the recipe's if not given.")]
ImgszFlag = Annotated[str, typer.Option(help="Input size that candidates are trained at.")]
ChargeFlag = Annotated[
    str | None,
    typer.Option(help="Input size that multiply-adds are counted at; --imgsz if not given. Larger inputs cost more."),
]
FrameFlag = Annotated[str, typer.Option(help="Camera frame size in pixels, HEIGHTxWIDTH.")]
LimitFlag = Annotated[int, typer.Option(min=0, help="Training frames to use; 0 for all.")]
ValFlag = Annotated[int, typer.Option(min=0, help="Frames to validate on per epoch; 0 for all.")]
SeedFlag = Annotated[int, typer.Option(help="Of weights, order and augmentation.")]
DeviceFlag = Annotated[
    str, typer.Option(help="auto, cpu or cuda; Ray hands out the GPUs, and without --gpus it is the CPU.")
]
GpusFlag = Annotated[float, typer.Option(min=0, help="GPUs per candidate; fractions share one.")]
ThreadsFlag = Annotated[int, typer.Option(min=1, help="CPU threads per candidate.")]
AtOnceFlag = Annotated[
    int | None, typer.Option(min=1, help="Candidates side by side on this machine; as many as fit if not given.")
]
RayFlag = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster; this machine alone if not given. Folders must be shared.")
]
StopFlag = Annotated[
    bool, typer.Option("--early-stopping/--no-early-stopping", help="Stop candidates that are behind (ASHA).")
]
GraceFlag = Annotated[
    int | None, typer.Option(min=1, help="Epochs before a candidate can be stopped; a third if not given.")
]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Go on with the search in --output.")]
ForceFlag = Annotated[bool, typer.Option("--force", help="Begin anew over an earlier search; replace the JSON file.")]
JsonFlag = Annotated[str | None, typer.Option("--json", help="Write the result to FILE, or - for stdout.")]


@app.command()
def architectures(
    ctx: typer.Context,
    *,
    data: DataFlag,
    output: OutputFlag,
    encoders: Annotated[str | None, typer.Option(help="smp encoders a,b,...; timm's as tu-NAME.")] = None,
    decoders: Annotated[str | None, typer.Option(help="smp architectures a,b,...")] = None,
    pairs: Annotated[str | None, typer.Option(help="Further pairs ARCHITECTURE:ENCODER,...")] = None,
    recipes: Annotated[str | None, typer.Option(help="Networks of named recipes to compare too.")] = None,
    epochs: EpochsFlag = 10,
    batch_size: BatchFlag = 16,
    lr: LrFlag = None,
    encoder_lr_scale: Annotated[float, typer.Option(help="Encoder's share of the learning rate.")] = 1.0,
    zoom: Annotated[float, typer.Option(help="As in `train`; helps from scratch.")] = 1.0,
    imgsz: ImgszFlag = "512",
    charge_imgsz: ChargeFlag = None,
    frame: FrameFlag = "1024x1024",
    limit_frames: LimitFlag = 0,
    val_frames: ValFlag = 0,
    seed: SeedFlag = 0,
    device: DeviceFlag = "auto",
    gpus: GpusFlag = 0.0,
    threads: ThreadsFlag = 1,
    at_once: AtOnceFlag = None,
    ray_address: RayFlag = None,
    early_stopping: StopFlag = False,
    grace_epochs: GraceFlag = None,
    resume: ResumeFlag = False,
    force: ForceFlag = False,
    json: JsonFlag = None,
) -> None:
    """Train many networks under one recipe and plot accuracy against efficiency.

    Without names it is the published search: EfficientNet-B0, MiT-B0 and MobileOne-S1 with seven decoders. Efficiency
    is that of the rewritten network, which is what ships. All start from random weights, so that none is favoured by
    its pretraining.

    Example: spacecompile search architectures --data frames -o runs/networks --pairs Segformer:tu-hgnetv2_b0
    """
    _begin(json, force=force, output=output)
    from spacecompile.search.study import search_architectures

    candidates = _networks(ctx.params)
    job = _job(ctx, recipe=candidates[0].recipe)
    with console.progress_bar() as progress:
        result = search_architectures(candidates, job, progress=progress)
    _finish(result, output, json)


@app.command()
def hyperparameters(
    ctx: typer.Context,
    *,
    data: DataFlag,
    output: OutputFlag,
    recipe: Annotated[str, typer.Option(help="Named recipe or its .json file to begin with.")] = "post",
    phases: Annotated[str | None, typer.Option(help="Some of the four, a,b,...; all in order if not given.")] = None,
    epochs: EpochsFlag = 30,
    batch_size: BatchFlag = 16,
    lr: LrFlag = None,
    imgsz: Annotated[str | None, typer.Option(help="Input size instead of the recipe's.")] = None,
    charge_imgsz: ChargeFlag = None,
    frame: FrameFlag = "1024x1024",
    limit_frames: LimitFlag = 0,
    val_frames: ValFlag = 0,
    seed: SeedFlag = 0,
    device: DeviceFlag = "auto",
    gpus: GpusFlag = 0.0,
    threads: ThreadsFlag = 1,
    at_once: AtOnceFlag = None,
    ray_address: RayFlag = None,
    early_stopping: StopFlag = True,
    grace_epochs: GraceFlag = None,
    resume: ResumeFlag = False,
    force: ForceFlag = False,
    json: JsonFlag = None,
) -> None:
    """Find the numbers to train one network with, in the post's four phases.

    learning-rate, width-and-resolution, augmentation-and-losses, refinement: the best of each goes into the next.
    Trainings that diverge are listed and left behind.

    Example: spacecompile search hyperparameters --data frames -o runs/numbers --recipe mit-b0-s16-512 --epochs 30
    """
    _begin(json, force=force, output=output)
    from spacecompile.search.phases import PHASES, search_hyperparameters

    chosen = names_from_text(phases, "--phases") if phases else tuple(PHASES)
    base = _base(ctx.params)
    job = _job(ctx, recipe=base.recipe)
    with console.progress_bar() as progress:
        result = search_hyperparameters(base, job, phases=chosen, progress=progress)
    _finish(result, output, json)


def _networks(given: dict[str, Any]) -> tuple[NamedRecipe, ...]:
    """The networks to compare, from the flags of `architectures`."""
    from spacecompile.search.candidates import POST_DECODERS, POST_ENCODERS, candidates_of, pair_from_text, pairs
    from spacecompile.train.recipe import Recipe

    def listed(name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        return names_from_text(given[name], f"--{name}") if given[name] else default

    named, chosen = listed("recipes"), tuple(pair_from_text(text) for text in listed("pairs"))
    if given["encoders"] or given["decoders"] or not (chosen or named):
        chosen = (*pairs(listed("decoders", POST_DECODERS), listed("encoders", POST_ENCODERS)), *chosen)
    numbers = {name: given[name] for name in ("epochs", "batch_size", "encoder_lr_scale", "zoom", "seed")}
    recipe = Recipe(**numbers, lr=1e-3 if given["lr"] is None else given["lr"])
    return candidates_of(chosen, recipe=recipe, spec=_sizes(given), named=named)


def _base(given: dict[str, Any]) -> NamedRecipe:
    """The recipe to begin with, from the flags of `hyperparameters`."""
    import msgspec

    from spacecompile.train.named_recipes import recipe_named

    named = recipe_named(given["recipe"])
    numbers = {name: given[name] for name in ("epochs", "batch_size", "seed")}
    if given["lr"] is not None:
        numbers["lr"] = given["lr"]
    recipe = msgspec.structs.replace(named.recipe, **numbers, freeze_stages=0)  # all begin with random weights
    return msgspec.structs.replace(named, recipe=recipe, spec={**named.spec, **_sizes(given)})


def _begin(json: str | None, *, force: bool, output: Path) -> None:
    wait_passively()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by Ray's processes, which set their own number
    require_extra("search", "search")
    console.check_json(json, force=force, output=output)


def _sizes(given: dict[str, Any]) -> dict[str, Any]:
    imgsz = {} if given["imgsz"] is None else {"input_size_px": list(size_px_from_text(given["imgsz"], "--imgsz"))}
    return imgsz | {"frame_size_px": list(size_px_from_text(given["frame"], "--frame"))}


def _job(ctx: typer.Context, *, recipe: Recipe) -> SearchJob:
    from spacecompile.runtime.threads import usable_processors
    from spacecompile.search.study import SearchJob
    from spacecompile.search.trial import TrialSetup
    from spacecompile.search.tuning import TuneOptions

    given: dict[str, Any] = ctx.params
    output, threads, charged = given["output"].resolve(), given["threads"], given["charge_imgsz"]
    options = TuneOptions(
        folder=output / "tune",
        ray_address=given["ray_address"],
        at_once=given["at_once"] or max(1, usable_processors() // threads),
        threads=threads,
        gpus=given["gpus"],
        early_stopping=given["early_stopping"],
        grace_epochs=given["grace_epochs"] or max(1, recipe.epochs // 3),
        resume=given["resume"],
    )
    setup = TrialSetup(
        data=str(given["data"].resolve()),
        device=given["device"],
        val_frames=given["val_frames"],
        limit_frames=given["limit_frames"],
        threads=threads,
    )
    return SearchJob(
        output=output,
        setup=setup,
        options=options,
        charged_size_px=None if charged is None else size_px_from_text(charged, "--charge-imgsz"),
        force=given["force"],
        command=typed_command(ctx, "search"),
    )


def _finish(result: SearchResult, output: Path, json: str | None) -> None:
    from spacecompile.search.results import result_bytes

    tables = (
        [("networks", result.outcomes)]
        if result.outcomes
        else [(f"{phase.name}: {phase.best} goes on", phase.outcomes) for phase in result.phases]
    )
    for title, outcomes in tables:
        console.stderr.print(_table(title, outcomes))
    if result.knee:
        console.say(f"Pareto frontier: {escape(', '.join(result.frontier))}; knee: [bold]{escape(result.knee)}[/]")
    console.say(f"best: [bold]{escape(result.best.name)}[/], in {result.circumstances.elapsed_s:.0f} s")
    console.say_line(f"page: {console.quoted(output / 'index.html')}")
    best = console.quoted(output / "best.json")
    console.say_line(f"next: [bold]spacecompile train --recipe {best} --data FRAMES -o RUN[/]")
    if json == "-":
        console.print_result(result_bytes(result).decode())
    elif json is not None:
        console.emit_json(result, json)


def _table(title: str, outcomes: tuple[Outcome, ...]) -> Table:
    columns = ("status", "epochs", "s_cls", "s_det", "s_seg", "s_acc", "GMAC", "M param", "s_final")
    # Names fold instead of losing their ends: they differ there.
    name = Column("candidate", overflow="fold")
    table = Table(name, *columns, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for outcome in outcomes:
        scores, costs = outcome.scores, outcome.costs
        if scores is None or costs is None or outcome.s_final < 0:
            table.add_row(escape(outcome.candidate.name), outcome.status, str(outcome.epochs))
            continue
        values = (scores.s_cls, scores.s_det, scores.s_seg, scores.s_acc)
        size = (costs.rewritten.macs_fvcore / 1e9, costs.rewritten.params / 1e6)
        numbers = (*(f"{value:.3f}" for value in (*values, *size)), f"{scores.s_final:.4f}")
        table.add_row(escape(outcome.candidate.name), outcome.status, str(outcome.epochs), *numbers)
    return table
