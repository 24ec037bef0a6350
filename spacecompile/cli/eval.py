"""`spacecompile eval`: the benchmark's scores of a checkpoint or of the very files of a bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from spacecompile.cli import console
from spacecompile.cli.own_process import wait_passively
from spacecompile.contract import PrecisionWish, Tta

if TYPE_CHECKING:
    from spacecompile.benchmarks.score.records import Evaluation
    from spacecompile.metrics import Scores

SCORE_NAMES = ("s_cls", "s_det", "s_seg", "s_acc", "s_flops", "s_params", "s_final")


def eval_(
    source: Annotated[Path, typer.Argument(metavar="CKPT_OR_BUNDLE", help="Checkpoint file or bundle folder.")],
    *,
    data: Annotated[Path, typer.Option(help="Labelled frames in the SPARK format.")],
    split: Annotated[str, typer.Option(help="Of --data.")] = "val",
    limit: Annotated[int | None, typer.Option(help="Frames to score, spread over the split; all if not given.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of the bundle, instead of --tta and --precision.")] = None,
    tta: Annotated[Tta, typer.Option(help="Test-time augmentation.")] = "none",
    precision: Annotated[
        PrecisionWish | None,
        typer.Option(help="Of the bundle's graph; the most exact if not given, auto the fastest on this CPU."),
    ] = None,
    backend: Annotated[str, typer.Option(help="Engine for a bundle; a checkpoint always runs on torch.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; the usable cores if not given.")] = None,
    json: Annotated[str | None, typer.Option("--json", help="Write the scores to FILE, or - for stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the JSON file.")] = False,
) -> None:
    """Score a checkpoint or a bundle on labelled frames.

    A bundle runs on the engine that ships; a checkpoint runs on PyTorch, from raw frame to answer, as the reference.
    A part that neither mask shows has IoU 1; one that only one of them shows has IoU 0. The score charges one forward
    pass, as the benchmark does; under D4 the score with all eight charged is printed beside it.

    Example: spacecompile eval net.spacepkg --data frames --variant fp32-d4 --json -
    """
    from spacecompile.benchmarks.score.evaluation import evaluate

    console.check_json(json, force=force)
    if source.is_file():
        wait_passively()
    start_s = time.perf_counter()
    with console.progress_bar() as progress:
        found = evaluate(
            source,
            data,
            split=split,
            limit=limit,
            variant=variant,
            tta=tta,
            precision=precision,
            backend=backend,
            threads=threads,
            progress=progress,
        )
    if found.assumed:
        console.say(escape(f"{found.assumed[0]}; assumed: {'; '.join(found.assumed[1:])}"))
    if not found.has_parts:
        console.say("the frames have no labelled parts, so s_seg is 0 and s_acc and s_final are too low")
    if left_out := found.frames_asked - found.scores.frames:
        console.say(f"{left_out} of {found.frames_asked} frames are broken and left out")
    _say(found, time.perf_counter() - start_s)
    if json is not None:
        console.emit_json(_document(found, data, split), json)


def _document(found: Evaluation, data: Path, split: str) -> dict[str, Any]:
    """The JSON of `--json`: circumstances, scores, and what they are made of."""
    scores, facts = found.scores, ("source", "kind", "source_sha256", "variant", "backend", "threads", "cost")
    return {
        **{name: getattr(found, name) for name in (*facts, "forward_passes")},
        "data": str(data),
        "split": split,
        "frames": scores.frames,
        "scores": {name: getattr(scores, name) for name in SCORE_NAMES},
        "charged": {name: getattr(found.charged, name) for name in ("s_flops", "s_params", "s_final")},
        "per_class": scores.per_class,
        "per_part": scores.per_part,
    }


def _per_class_table(scores: Scores) -> Table:
    table = Table("class", "frames", "s_cls", "s_det", "s_seg", box=None, pad_edge=False)
    for name, row in scores.per_class.items():
        table.add_row(escape(name), str(row.frames), *(f"{value:.4f}" for value in (row.s_cls, row.s_det, row.s_seg)))
    parts = "  ".join(f"{part} {iou:.4f}" for part, iou in scores.per_part.items())
    table.caption = f"IoU per part: {parts}"
    return table


def _say(found: Evaluation, wall_s: float) -> None:
    scores = found.scores
    values = "  ".join(f"{name} {getattr(scores, name):.4f}" for name in SCORE_NAMES)
    console.say(f"{escape(found.source)}, {found.variant} on {found.backend}, {scores.frames} frames: {values}")
    if found.forward_passes > 1:
        console.say(f"with all {found.forward_passes} forward passes charged: s_final {found.charged.s_final:.4f}")
    console.stderr.print(_per_class_table(scores))
    following = "spacecompile bench" if found.kind == "bundle" else "spacecompile build"
    console.say(f"scored in {wall_s:.1f} s. Next: [bold]{following} {escape(found.source)}[/]")
