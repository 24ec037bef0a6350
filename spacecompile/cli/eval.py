"""`spacecompile eval`: the benchmark's scores of a checkpoint or of the very files of a bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.markup import escape
from rich.table import Table

from spacecompile.cli import console
from spacecompile.cli.own_process import wait_passively
from spacecompile.contract import PrecisionWish, Progress, Tta
from spacecompile.errors import UsageError
from spacecompile.extras import require_extra

if TYPE_CHECKING:
    from spacecompile.data.labels import LabelledFrame
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
    from spacecompile.benchmarks.frame_stream import labelled_frames

    console.check_json(json, force=force)
    if not source.exists():
        raise UsageError(f"{source} does not exist. Name a checkpoint file or a bundle folder.")
    start_s = time.perf_counter()
    frames = labelled_frames(data, split, limit)
    with console.progress_bar() as progress:
        if source.is_dir():
            facts, scores = _bundle_scores(
                source,
                frames,
                progress,
                arguments={
                    "variant": variant,
                    "tta": tta,
                    "precision": precision,
                    "backend": backend,
                    "threads": threads,
                },
            )
        else:
            chosen_tta = _checkpoint_tta(source, variant=variant, tta=tta, precision=precision, backend=backend)
            facts, scores = _checkpoint_scores(source, frames, progress, tta=chosen_tta, threads=threads)
    if not any(frame.has_parts for frame in frames):
        console.say("the frames have no labelled parts, so s_seg is 0 and s_acc and s_final are too low")
    if left_out := len(frames) - scores.frames:
        console.say(f"{left_out} of {len(frames)} frames are broken and left out")
    _say(facts, scores, time.perf_counter() - start_s)
    if json is not None:
        values = {name: getattr(scores, name) for name in SCORE_NAMES}
        counts = {"data": str(data), "split": split, "frames": scores.frames}
        breakdown = {"charged": _charged(facts, scores), "per_class": scores.per_class, "per_part": scores.per_part}
        console.emit_json({**facts, **counts, "scores": values, **breakdown}, json)


def _bundle_scores(
    root: Path, frames: list[LabelledFrame], progress: Progress, *, arguments: dict[str, Any]
) -> tuple[dict[str, Any], Scores]:
    from spacecompile.benchmarks.latency.variants import answered_from_answer
    from spacecompile.benchmarks.score.evaluate import evaluate
    from spacecompile.metrics import FORWARD_PASSES
    from spacecompile.runtime.bundle import open_bundle
    from spacecompile.runtime.session import load

    bundle = open_bundle(root)
    manifest = bundle.manifest
    with load(bundle, **arguments) as session:
        scores = evaluate(
            lambda frame_HWC: answered_from_answer(session(frame_HWC)),
            frames,
            spec=manifest.spec,
            cost=manifest.cost,
            progress=progress,
        )
    choice = session.choice
    facts = {
        "source": str(root),
        "kind": "bundle",
        "source_sha256": manifest.source_sha256,
        "variant": choice.variant,
        "backend": f"{choice.backend} {choice.backend_version}",
        "threads": choice.threads,
        "cost": manifest.cost,
        "forward_passes": FORWARD_PASSES[bundle.variant(choice.variant).tta],
    }
    return facts, scores


def _checkpoint_tta(source: Path, *, variant: str | None, tta: Tta, precision: str | None, backend: str) -> Tta:
    """The test-time augmentation that flags made for bundles mean for a checkpoint, always float32 on torch."""
    named_precision, _, named_tta = (variant or f"fp32-{tta}").partition("-")
    asked_precision = precision or named_precision
    if asked_precision != "fp32" or named_tta not in ("", *get_args(Tta)) or backend not in ("auto", "torch"):
        raise UsageError(
            f"{source} is a checkpoint, which runs in float32 on PyTorch; variant {variant}, precision {precision} and "
            f"backend {backend} do not fit. Leave them out, or build a bundle first with `spacecompile build`."
        )
    return cast("Tta", named_tta or "none")


def _checkpoint_scores(
    path: Path, frames: list[LabelledFrame], progress: Progress, *, tta: Tta, threads: int | None
) -> tuple[dict[str, Any], Scores]:
    require_extra("compile", "scoring a checkpoint")
    wait_passively()
    import torch

    from spacecompile.benchmarks.score.evaluate import evaluate
    from spacecompile.benchmarks.score.torch_reference import TorchReference
    from spacecompile.metrics import FORWARD_PASSES
    from spacecompile.network.checkpoint import load_checkpoint
    from spacecompile.runtime.threads import usable_cores

    checkpoint = load_checkpoint(path)
    if checkpoint.assumed:
        console.say(escape(f"{checkpoint.format}; assumed: {'; '.join(checkpoint.assumed)}"))
    torch.set_num_threads(threads or usable_cores())
    reference = TorchReference(checkpoint, tta)
    scores = evaluate(reference, frames, spec=checkpoint.spec, cost=reference.cost(), progress=progress)
    facts = {
        "source": str(path),
        "kind": "checkpoint",
        "source_sha256": checkpoint.sha256,
        "variant": "fp32" if tta == "none" else f"fp32-{tta}",
        "backend": reference.engine,
        "threads": torch.get_num_threads(),
        "cost": reference.cost(),
        "forward_passes": FORWARD_PASSES[tta],
    }
    return facts, scores


def _per_class_table(scores: Scores) -> Table:
    table = Table("class", "frames", "s_cls", "s_det", "s_seg", box=None, pad_edge=False)
    for name, row in scores.per_class.items():
        table.add_row(escape(name), str(row.frames), *(f"{value:.4f}" for value in (row.s_cls, row.s_det, row.s_seg)))
    parts = "  ".join(f"{part} {iou:.4f}" for part, iou in scores.per_part.items())
    table.caption = f"IoU per part: {parts}"
    return table


def _charged(facts: dict[str, Any], scores: Scores) -> dict[str, float]:
    """What the score would be if every forward pass were charged."""
    from spacecompile.metrics import with_cost

    charged = with_cost(scores, facts["cost"], passes=facts["forward_passes"])
    return {"s_flops": charged.s_flops, "s_params": charged.s_params, "s_final": charged.s_final}


def _say(facts: dict[str, Any], scores: Scores, wall_s: float) -> None:
    values = "  ".join(f"{name} {getattr(scores, name):.4f}" for name in SCORE_NAMES)
    console.say(
        f"{escape(facts['source'])}, {facts['variant']} on {facts['backend']}, {scores.frames} frames: {values}"
    )
    if facts["forward_passes"] > 1:
        s_final = _charged(facts, scores)["s_final"]
        console.say(f"with all {facts['forward_passes']} forward passes charged: s_final {s_final:.4f}")
    console.stderr.print(_per_class_table(scores))
    following = "spacecompile bench" if facts["kind"] == "bundle" else "spacecompile build"
    console.say(f"scored in {wall_s:.1f} s. Next: [bold]{following} {escape(facts['source'])}[/]")
