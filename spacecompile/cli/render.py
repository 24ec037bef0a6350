"""`spacecompile render`: synthetic frames in the SPARK format."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from spacecompile.cli.console import check_json, emit_json, progress_bar, quoted, say
from spacecompile.extras import require_extra


def render(
    output: Annotated[Path, typer.Option("-o", "--output", help="Data folder; an unfinished one is resumed.")],
    *,
    frames: Annotated[int, typer.Option("--frames", help="Frames in the split.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Other seeds give other frames.")] = 0,
    split: Annotated[str, typer.Option("--split", help="train or val; they share no frame.")] = "train",
    size: Annotated[int, typer.Option("--size", help="Height and width of the frames in pixels.")] = 1024,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes. [default: one per core]")] = None,
    samples: Annotated[int, typer.Option("--samples", help="Rays per pixel; labels use the pixel's centre.")] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Render a split that is there anew; replace the JSON file.")
    ] = False,
    json: Annotated[str | None, typer.Option("--json", help="Summary as JSON to a file, or - for stdout.")] = None,
) -> None:
    """Render synthetic frames with masks, boxes and classes in the SPARK 2024/2026 format.

    The same seed and split give the same bytes for any number of workers. Interrupted, the same
    command goes on where it stopped.

    Example: spacecompile render -o frames --frames 500 --split val
    """
    require_extra("render", "render")
    check_json(json, force=force, output=output)
    from spacecompile.data.render.dataset import render_dataset
    from spacecompile.data.render.settings import RenderSettings
    from spacecompile.runtime.threads import usable_processors

    settings = RenderSettings(num_frames=frames, seed=seed, split=split, frame_size_px=size, samples_per_pixel=samples)
    num_workers = usable_processors() if workers is None else workers
    with progress_bar() as progress:
        summary = render_dataset(output, settings, workers=num_workers, progress=progress, force=force)
    say(
        f"{summary.frames} {split} frames in {output}: {summary.rendered} rendered in {summary.seconds:.1f} s "
        f"({summary.frames_per_second:.2f} frames/s, {summary.workers} workers). "
        f"Next: spacecompile train --data {quoted(output)}"
    )
    if json is not None:
        emit_json(dataclasses.asdict(summary), json)
