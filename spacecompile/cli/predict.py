"""`spacecompile predict`: a bundle and images to overlays and one JSON document."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from spacecompile.cli import console
from spacecompile.contract import PrecisionWish, Tta
from spacecompile.errors import InterruptedRunError

if TYPE_CHECKING:
    from spacecompile.prediction import Prediction, PredictPlan

SOME_FAILED_EXIT_CODE = 2
"""Everything else was answered and written, but a caller that only looks at the exit code must see it."""


def predict(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `build` made.", show_default=False)],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, quoted patterns, or the root of a SPARK data set.", show_default=False
        ),
    ],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the overlays and answers.json.")] = Path(
        "predictions"
    ),
    tta: Annotated[Tta, typer.Option(help="Test-time augmentation inside the graph.")] = "none",
    precision: Annotated[
        PrecisionWish | None,
        typer.Option(help="Of the graph; the most exact if not given, auto the fastest on this CPU."),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Name of the graph, instead of --tta and --precision.")] = None,
    backend: Annotated[str, typer.Option(help="onnxruntime, openvino, or auto: the fastest certified one.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; the usable physical cores if not given.")] = None,
    color: Annotated[Literal["rgb", "bgr", "gray"], typer.Option(help="What the images hold.")] = "rgb",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Take the images of subfolders too.")] = False,
    overlays: Annotated[bool, typer.Option("--overlays/--no-overlays", help="Draw each answer on its image.")] = True,
    masks: Annotated[bool, typer.Option("--masks/--no-masks", help="Put the masks into the JSON, as COCO RLE.")] = True,
    submission: Annotated[
        bool, typer.Option("--submission", help="Write submission.zip for the benchmark's server too.")
    ] = False,
    submission_boxes: Annotated[
        Literal["xy", "rows"], typer.Option(help="Boxes there: xy as in 2024/2026 labels, rows as in 2022's.")
    ] = "xy",
    json: Annotated[str | None, typer.Option("--json", help="Write the answers to FILE too, or - for stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite earlier answers and overlays.")] = False,
) -> None:
    """Answer images: class, parts and box of the spacecraft in each.

    An image that can't be used is reported and left out, the others are answered; the exit code is then 2. Interrupted,
    it writes the answers that it has, marked as partial.
    """
    from spacecompile.prediction import PredictOptions, plan_predictions, run_predictions
    from spacecompile.runtime.session import load

    options = PredictOptions(
        color=color,
        recursive=recursive,
        overlays=overlays,
        masks=masks,
        submission=submission,
        submission_boxes=submission_boxes,
        force=force,
    )
    plan = plan_predictions(images, output=output, options=options)
    console.check_json(json, force=force, output=output)
    started_s = time.perf_counter()
    with (
        load(bundle, backend=backend, tta=tta, precision=precision, variant=variant, threads=threads) as session,
        console.progress_bar() as progress,
    ):
        found = run_predictions(session, plan, progress=progress, on_left_out=_say_left_out)
    if json is not None:
        console.emit_json(found.document, json)
    if not found.partial:
        _report(found, plan, bundle=bundle, wall_s=time.perf_counter() - started_s)
    _end(found, plan, has_document=json == "-")


def _say_left_out(name: str, message: str) -> None:
    console.say(f"[yellow]left out[/] {escape(name)}: {escape(message)}")


def _end(found: Prediction, plan: PredictPlan, *, has_document: bool) -> None:
    """Say by the exit code what is missing.

    Raises:
        InterruptedRunError: If the run was interrupted.
        typer.Exit: If images were left out.
    """
    if found.partial:
        error = InterruptedRunError(
            f"stopped; {len(found.answers)} of {len(plan.images)} images are answered in {plan.output}, marked as "
            "partial. Add --force to answer all of them again."
        )
        error.has_document = has_document
        raise error
    if found.failed:
        raise typer.Exit(SOME_FAILED_EXIT_CODE)


def _report(found: Prediction, plan: PredictPlan, *, bundle: Path, wall_s: float) -> None:
    answered, failed = len(found.answers), len(found.failed)
    per_answer = f", {1e3 * found.answering_s / answered:.0f} ms per answer" if answered else ""
    flagged = sum(bool(answer["flags"]) for answer in found.answers)
    console.say(
        f"{answered} answered ({flagged} flagged), {failed} left out, in {wall_s:.1f} s "
        f"({(answered + failed) / wall_s:.1f} images/s{per_answer})"
    )
    console.say(f"overlays and answers.json are in {escape(str(plan.output))}")
    if plan.options.submission:
        lacking = f"; [yellow]{failed} images are not in it[/]" if failed else ""
        console.say(f"submission.zip holds {answered} frames{lacking}")
    console.say(f"next: [bold]spacecompile bench {console.quoted(bundle)}[/]")
