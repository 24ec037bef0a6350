"""`spacecompile render`: synthetic frames in the SPARK format."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer

from spacecompile.cli.console import emit_json, progress_bar, say
from spacecompile.errors import MissingPartError


def render(
    output: Annotated[Path, typer.Option("-o", "--output", help="Data folder; an unfinished one is resumed.")],
    *,
    frames: Annotated[int, typer.Option("--frames", help="Frames in the split.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Other seeds give other frames.")] = 0,
    split: Annotated[str, typer.Option("--split", help="train or val; they share no frame.")] = "train",
    size: Annotated[int, typer.Option("--size", help="Height and width of the frames in pixels.")] = 1024,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes. [default: one per core]")] = None,
    samples: Annotated[int, typer.Option("--samples", help="Rays per pixel; labels use the pixel's centre.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a split made with other settings.")] = False,
    json: Annotated[str | None, typer.Option("--json", help="Summary as JSON to a file, or - for stdout.")] = None,
) -> None:
    """Render synthetic frames with masks, boxes and classes in the SPARK 2024/2026 format.

    The same seed and split give the same bytes for any number of workers. Interrupted, the same
    command goes on where it stopped.

    Example: spacecompile render -o frames --frames 500 --split val
    """
    try:
        from spacecompile.data.render.dataset import render_dataset
        from spacecompile.data.render.settings import RenderSettings
    except ModuleNotFoundError as error:
        raise MissingPartError(
            f"render needs the package {error.name!r}, which isn't installed. Run: pip install 'spacecompile[render]'"
        ) from error
    settings = RenderSettings(num_frames=frames, seed=seed, split=split, frame_size_px=size, samples_per_pixel=samples)
    num_workers = _num_cores() if workers is None else workers
    with progress_bar() as progress:
        summary = render_dataset(output, settings, workers=num_workers, progress=progress, force=force)
    say(
        f"{summary.frames} {split} frames in {output}: {summary.rendered} rendered in {summary.seconds:.1f} s "
        f"({summary.frames_per_second:.2f} frames/s, {summary.workers} workers). "
        f"Next: spacecompile train --data {output}"
    )
    if json is not None:
        emit_json(dataclasses.asdict(summary), json)


def _num_cores() -> int:
    """Cores that this process may use: a container often has fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
