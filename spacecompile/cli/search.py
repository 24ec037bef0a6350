"""`spacecompile search`: which network, and which numbers to train it with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from spacecompile.cli import console
from spacecompile.cli.flags.command_line import typed_command
from spacecompile.cli.flags.parse import names_from_text, size_px_from_text
from spacecompile.cli.flags.shared import with_shared
from spacecompile.cli.own_process import wait_passively
from spacecompile.extras import require_extra

if TYPE_CHECKING:
    from spacecompile.search.results import Outcome, SearchResult
    from spacecompile.search.study import SearchJob
    from spacecompile.train.named_recipes import NamedRecipe
    from spacecompile.train.recipe import Recipe

app = typer.Typer(no_args_is_help=True, help="Search for networks and for the numbers to train them with.")

# One group per settings class: NamedRecipe, Recipe, ModelSpec, TrialSetup, TuneOptions (two of it).
_CANDIDATES = partial(typer.Option, rich_help_panel="Candidates")
_TRAINING = partial(typer.Option, rich_help_panel="Training of each candidate")
_SIZES = partial(typer.Option, rich_help_panel="Sizes")
_FRAMES = partial(typer.Option, rich_help_panel="Frames and device of each candidate")
_RUNNING = partial(typer.Option, rich_help_panel="Running candidates side by side")
_STOPPING = partial(typer.Option, rich_help_panel="Stopping candidates early")

EpochsFlag = Annotated[int, _TRAINING(help="Passes over the training frames.")]
StopFlag = Annotated[
    bool, _STOPPING("--early-stopping/--no-early-stopping", help="Stop candidates that are behind (ASHA).")
]


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """Options of both searches; the help of each says what it is."""

    data: Annotated[Path, typer.Option("--data", help="Folder in the SPARK format with the splits train and val.")]
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the search.")]
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in --output.")] = False
    force: Annotated[
        bool, typer.Option("--force", help="Begin anew over an earlier search; replace the JSON file.")
    ] = False
    json: Annotated[str | None, typer.Option("--json", help="Write the result to FILE, or - for stdout.")] = None
    batch_size: Annotated[int, _TRAINING(help="Frames per step.")] = 16
    seed: Annotated[int, _TRAINING(help="Seed of weights, order of the frames and augmentation.")] = 0
    charge_imgsz: Annotated[
        str | None,
        _SIZES(help="Input size that multiply-adds are counted at; larger ones cost more.", show_default="--imgsz"),
    ] = None
    frame: Annotated[str, _SIZES(help="Camera frame size in pixels, HEIGHTxWIDTH.")] = "1024x1024"
    limit_frames: Annotated[int, _FRAMES(min=0, help="Training frames to use; 0 for all.")] = 0
    val_frames: Annotated[int, _FRAMES(min=0, help="Frames to validate on per epoch; 0 for all.")] = 0
    device: Annotated[
        str, _FRAMES(help="auto, cpu or cuda; Ray hands out the GPUs, and without --gpus it is the CPU.")
    ] = "auto"
    gpus: Annotated[float, _RUNNING(min=0, help="GPUs per candidate; fractions share one.")] = 0.0
    threads: Annotated[int, _RUNNING(min=1, help="CPU threads per candidate.")] = 1
    at_once: Annotated[
        int | None, _RUNNING(min=1, help="Candidates at the same time on this machine.", show_default="as many as fit")
    ] = None
    ray_address: Annotated[
        str | None,
        _RUNNING(help="Address of a Ray cluster, which must share the folders.", show_default="this machine alone"),
    ] = None
    grace_epochs: Annotated[
        int | None,
        _STOPPING(min=1, metavar="N", help="Epochs before one can be stopped.", show_default="a third of --epochs"),
    ] = None


@app.command()
@with_shared(SharedOptions)
def architectures(
    ctx: typer.Context,
    *,
    encoders: Annotated[str | None, _CANDIDATES(help="smp encoders a,b,...; timm's as tu-NAME.")] = None,
    decoders: Annotated[str | None, _CANDIDATES(help="smp architectures a,b,...")] = None,
    pairs: Annotated[str | None, _CANDIDATES(help="Further pairs ARCHITECTURE:ENCODER,...")] = None,
    recipes: Annotated[str | None, _CANDIDATES(help="Named recipes a,b,... whose networks take part too.")] = None,
    epochs: EpochsFlag = 10,
    lr: Annotated[float, _TRAINING(help="Peak learning rate.")] = 1e-3,
    encoder_lr_scale: Annotated[float, _TRAINING(help="Encoder's share of --lr.")] = 1.0,
    zoom: Annotated[
        float, _TRAINING(help="Share of views cut around the craft at the start, falling to 0; helps from scratch.")
    ] = 1.0,
    imgsz: Annotated[str, _SIZES(help="Input size that candidates are trained at.")] = "512",
    early_stopping: StopFlag = False,
    shared: SharedOptions,
) -> None:
    """Train many networks under one recipe and plot accuracy against efficiency.

    Without names it is the published search: EfficientNet-B0, MiT-B0 and MobileOne-S1 with seven decoders. Efficiency
    is that of the rewritten network, which is what ships. All start from random weights, so that none is favoured by
    its pretraining.

    Example: spacecompile search architectures --data frames -o runs/networks --pairs Segformer:tu-hgnetv2_b0
    """
    _begin(shared)
    from spacecompile.search.candidates import POST_DECODERS, POST_ENCODERS, candidates_of, pair_from_text
    from spacecompile.search.candidates import pairs as pairs_of
    from spacecompile.search.study import search_architectures
    from spacecompile.train.recipe import Recipe

    named = _names(recipes, "--recipes")
    chosen = tuple(pair_from_text(text) for text in _names(pairs, "--pairs"))
    if encoders or decoders or not (chosen or named):
        all_decoders = _names(decoders, "--decoders") or POST_DECODERS
        chosen = (*pairs_of(all_decoders, _names(encoders, "--encoders") or POST_ENCODERS), *chosen)
    recipe = Recipe(
        epochs=epochs,
        batch_size=shared.batch_size,
        lr=lr,
        encoder_lr_scale=encoder_lr_scale,
        zoom=zoom,
        seed=shared.seed,
    )
    candidates = candidates_of(chosen, recipe=recipe, spec=_sizes(imgsz, shared.frame), named=named)
    job = _job(ctx, shared, recipe=candidates[0].recipe, early_stopping=early_stopping)
    with console.progress_bar() as progress:
        result = search_architectures(candidates, job, progress=progress)
    _finish(result, shared.output, shared.json)


@app.command()
@with_shared(SharedOptions)
def hyperparameters(
    ctx: typer.Context,
    *,
    recipe: Annotated[str, _CANDIDATES(help="Named recipe or its .json file to begin with.")] = "post",
    phases: Annotated[
        str | None, _CANDIDATES(help="Some of the four phases, a,b,...", show_default="all in order")
    ] = None,
    epochs: EpochsFlag = 30,
    lr: Annotated[float | None, _TRAINING(help="Peak learning rate.", show_default="the recipe's")] = None,
    imgsz: Annotated[
        str | None, _SIZES(help="Input size that candidates are trained at.", show_default="the recipe's")
    ] = None,
    early_stopping: StopFlag = True,
    shared: SharedOptions,
) -> None:
    """Find the numbers to train one network with, in the post's four phases.

    learning-rate, width-and-resolution, augmentation-and-losses, refinement: the best of each goes into the next.
    Trainings that diverge are listed and left behind.

    Example: spacecompile search hyperparameters --data frames -o runs/numbers --recipe mit-b0-s16-512 --epochs 30
    """
    _begin(shared)
    from spacecompile.search.phases import PHASES, search_hyperparameters

    chosen = _names(phases, "--phases") or tuple(PHASES)
    base = _base(recipe, shared, epochs=epochs, lr=lr, imgsz=imgsz)
    job = _job(ctx, shared, recipe=base.recipe, early_stopping=early_stopping)
    with console.progress_bar() as progress:
        result = search_hyperparameters(base, job, phases=chosen, progress=progress)
    _finish(result, shared.output, shared.json)


def _begin(shared: SharedOptions) -> None:
    wait_passively()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by Ray's processes, which set their own number
    require_extra("search", "search")
    console.check_json(shared.json, force=shared.force, output=shared.output)


def _names(text: str | None, flag: str) -> tuple[str, ...]:
    return names_from_text(text, flag) if text else ()


def _base(text: str, shared: SharedOptions, *, epochs: int, lr: float | None, imgsz: str | None) -> NamedRecipe:
    """The recipe to begin with, from the flags of `hyperparameters`."""
    import msgspec

    from spacecompile.train.named_recipes import recipe_named

    named = recipe_named(text)
    rate = named.recipe.lr if lr is None else lr
    numbers = {"epochs": epochs, "batch_size": shared.batch_size, "seed": shared.seed, "lr": rate}
    recipe = msgspec.structs.replace(named.recipe, **numbers, freeze_stages=0)  # all begin with random weights
    return msgspec.structs.replace(named, recipe=recipe, spec={**named.spec, **_sizes(imgsz, shared.frame)})


def _sizes(imgsz: str | None, frame: str) -> dict[str, Any]:
    """Fields of the spec that sizes set, as JSON holds them."""
    given = {} if imgsz is None else {"input_size_px": list(size_px_from_text(imgsz, "--imgsz"))}
    return given | {"frame_size_px": list(size_px_from_text(frame, "--frame"))}


def _job(ctx: typer.Context, shared: SharedOptions, *, recipe: Recipe, early_stopping: bool) -> SearchJob:
    from spacecompile.runtime.threads import usable_processors
    from spacecompile.search.study import SearchJob
    from spacecompile.search.trial import TrialSetup
    from spacecompile.search.tuning import TuneOptions

    output, threads, charged = shared.output.resolve(), shared.threads, shared.charge_imgsz
    options = TuneOptions(
        folder=output / "tune",
        ray_address=shared.ray_address,
        at_once=shared.at_once or max(1, usable_processors() // threads),
        threads=threads,
        gpus=shared.gpus,
        early_stopping=early_stopping,
        grace_epochs=shared.grace_epochs or max(1, recipe.epochs // 3),
        resume=shared.resume,
    )
    setup = TrialSetup(
        data=str(shared.data.resolve()),
        device=shared.device,
        val_frames=shared.val_frames,
        limit_frames=shared.limit_frames,
        threads=threads,
    )
    return SearchJob(
        output=output,
        setup=setup,
        options=options,
        charged_size_px=None if charged is None else size_px_from_text(charged, "--charge-imgsz"),
        force=shared.force,
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
