"""`spacecompile data`: look at a data set, measure how fast it is read, export it, fetch a published one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from spacecompile.cli import console
from spacecompile.cli.flags.parse import size_px_from_text
from spacecompile.errors import DataError, UsageError
from spacecompile.extras import require_extra
from spacecompile.files import check_destination, write_file

if TYPE_CHECKING:
    from spacecompile.data.check import SplitFacts, Spread
    from spacecompile.train.read_rate import AugmentRate, DecodeRate

app = typer.Typer(
    name="data", help="Look at a data set, export it, measure reading it, fetch one.", no_args_is_help=True
)

DataOption = Annotated[Path, typer.Option("--data", help="Folder in a SPARK format.")]
SplitOption = Annotated[str, typer.Option("--split", help="Of --data.")]
LimitOption = Annotated[int, typer.Option("--limit", min=0, help="Frames to read, spread over the split; 0 for all.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]


@app.command("check")
def check(
    *,
    data: DataOption,
    split: SplitOption = "train",
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Contact sheet to draw, a PNG file: frames with their labels.")
    ] = None,
    per_class: Annotated[int, typer.Option(min=1, max=50, help="Frames of each class on the sheet.")] = 5,
    limit: LimitOption = 0,
    force: ForceOption = False,
    json: Annotated[str | None, typer.Option("--json", help="Write the facts to FILE, or - for stdout.")] = None,
) -> None:
    """Count classes and sizes, measure brightness and boxes, list broken files, draw a contact sheet.

    Example: spacecompile data check --data frames --split val --sheet sheet.png
    """
    from spacecompile.data.broken import refuse_too_many
    from spacecompile.data.check import check_split
    from spacecompile.data.contact_sheet import contact_sheet
    from spacecompile.data.labels import scan_split, spread
    from spacecompile.runtime.threads import usable_processors

    console.check_json(json, force=force)
    if sheet is not None:
        check_destination(sheet, flag="--sheet", force=force)
    found = scan_split(data, split)
    frames = spread(found.frames, limit or None)
    with console.progress_bar() as progress:
        facts = check_split(found, frames=frames, threads=usable_processors(), progress=progress)
        if sheet is not None:
            png = contact_sheet(frames, classes=found.format.classes, per_class=per_class, progress=progress)
            write_file(sheet, png)
    _say_facts(facts, data=data, split=split, sheet=sheet)
    if json is not None:
        console.emit_json(facts, json)
    # After the whole list was shown: `train` would stop there too.
    try:
        refuse_too_many(facts.broken, facts.frames + len(facts.broken), name=f"the {split} split of {data}")
    except DataError as error:
        error.has_document = json == "-"
        raise


def _say_facts(facts: SplitFacts, *, data: Path, split: str, sheet: Path | None) -> None:
    say = console.say_line
    say(f"{escape(str(data))}, {split}: {facts.frames} frames of {facts.format}, {len(facts.broken)} broken")
    for reason in facts.broken:
        say(f"  [yellow]broken[/] {escape(reason)}")
    say("classes      " + ", ".join(f"{name} {count}" for name, count in facts.classes.items()))
    say("sizes        " + ", ".join(f"{size} px {count}" for size, count in facts.sizes.items()))
    say(f"pixels       --mean {_channels(facts.mean)} --std {_channels(facts.std)}")
    say(f"brightness   {_values(facts.brightness, 1)} of 255")
    say(f"saturated    {_values(facts.saturated_share, 4)} of the pixels")
    say(f"craft size   {_values(facts.craft_size, 3)} of the frame's side")
    for name, part in facts.parts.items():
        share = _values(part.share, 4) if part.share else "none"
        say(f"{name:<12} {share} of the pixels, in {part.frames} frames")
    for side, margin in facts.margins_px.items():
        say(f"{'box ' + side:<12} {_values(margin, 1)} px beyond the mask's")
    if facts.box_iou:
        say(f"box IoU      {_values(facts.box_iou, 3)} of labelled and mask's box")
        beyond = f"{facts.outside_box_share:.1%} with parts beyond the box"
        say(f"oddities     {facts.without_parts} empty masks, {beyond}, {facts.box_outside} boxes beyond the frame")
    if sheet is not None:
        say(f"contact sheet: {escape(str(sheet))}")
    say(f"next: [bold]spacecompile train --data {console.quoted(data)} -o runs/first[/]")


def _channels(values: tuple[float, float, float]) -> str:
    return ",".join(f"{value:.3f}" for value in values)


def _values(values: Spread, digits: int) -> str:
    """Median, the middle nine tenths and the extremes, as one line."""
    low, p05, median, p95, high = (
        f"{value:.{digits}f}" for value in (values.min, values.p05, values.median, values.p95, values.max)
    )
    return median if low == high else f"{median} (mostly {p05} to {p95}, all {low} to {high})"


@app.command("coco")
def coco(
    *,
    data: DataOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file to write.")],
    split: SplitOption = "train",
    limit: LimitOption = 0,
    force: ForceOption = False,
) -> None:
    """Export labels as a COCO instances file: the spacecraft with box and mask, and its parts.

    Example: spacecompile data coco --data frames --split val -o val.coco.json
    """
    import msgspec

    from spacecompile._version import __version__
    from spacecompile.data.broken import BrokenFiles
    from spacecompile.data.coco import coco_document
    from spacecompile.data.labels import scan_split, spread
    from spacecompile.runtime.threads import usable_processors

    check_destination(output, flag="--output", force=force)
    found = scan_split(data, split)
    tally = BrokenFiles(len(found.frames) + len(found.broken), name=f"the {split} split of {data}")
    for broken in found.broken:
        tally.add(broken)
    with console.progress_bar() as progress:
        document, left_out = coco_document(
            spread(found.frames, limit or None),
            classes=found.format.classes,
            root=data,
            description=f"{data.name}, split {split}, exported by spacecompile {__version__}",
            threads=usable_processors(),
            progress=progress,
        )
    write_file(output, msgspec.json.encode(document))
    console.say(
        f"{len(document['images'])} frames with {len(document['annotations'])} annotations in {escape(str(output))}, "
        f"{len(tally) + len(left_out)} broken ones left out"
    )


@app.command("bench")
def bench(
    *,
    data: DataOption,
    split: SplitOption = "train",
    imgsz: Annotated[str, typer.Option(help="Input size in pixels: SIDE or HEIGHTxWIDTH.")] = "512",
    batch_size: Annotated[int, typer.Option(min=1, help="Frames per batch.")] = 16,
    workers: Annotated[
        str, typer.Option(help="Numbers of decoding processes to compare, a,b,...; 0 is threads of one process.")
    ] = "0",
    augment: Annotated[str, typer.Option(help="none, light, medium or heavy.")] = "light",
    device: Annotated[str, typer.Option(help="Of the augmentation: cpu, cuda or cuda:N.")] = "cpu",
    duration: Annotated[float, typer.Option(help="Seconds per measurement.")] = 10.0,
    force: ForceOption = False,
    json: Annotated[str | None, typer.Option("--json", help="Write the rates to FILE, or - for stdout.")] = None,
) -> None:
    """Measure how many frames per second reach a training step, by threads and by processes.

    Example: spacecompile data bench --data frames --workers 0,4,8 --device cuda
    """
    require_extra("train", "data bench")
    console.check_json(json, force=force)
    import torch

    from spacecompile.data.labels import classes_of, read_split
    from spacecompile.runtime.threads import usable_processors
    from spacecompile.train.augment import SETTINGS
    from spacecompile.train.device import plan_device
    from spacecompile.train.read_rate import augment_rate, decode_rate

    if augment not in SETTINGS:
        raise UsageError(f"--augment is {augment!r}; it must be one of {', '.join(SETTINGS)}.")
    counts, size_px = _counts(workers), size_px_from_text(imgsz, "--imgsz")
    name = str(plan_device(device, amp=False).device)
    frames = read_split(data, split)
    classes = classes_of(frames)
    rates = []
    with console.progress_bar() as progress:
        for processes in counts:
            rate, batch = decode_rate(
                frames,
                classes=classes,
                input_size_px=size_px,
                batch_size=batch_size,
                processes=processes,
                duration_s=duration,
                progress=progress,
            )
            rates.append(rate)
    augmented = augment_rate(batch, augment, device=name, duration_s=duration / 2)
    _say_rates(rates, augmented, threads=usable_processors())
    facts = {
        "data": str(data),
        "split": split,
        "input_size_px": list(size_px),
        "batch_size": batch_size,
        "processors": usable_processors(),
        "torch": str(torch.__version__),
    }
    if json is not None:
        console.emit_json({**facts, "decode": rates, "augment": augmented}, json)


def _say_rates(rates: Sequence[DecodeRate], augmented: AugmentRate, *, threads: int) -> None:
    for rate in rates:
        by = f"{rate.processes} processes" if rate.processes else f"{threads} threads"
        console.say(
            f"decode by {by:<13} {rate.frames_per_s:8.1f} frames/s   first batch after {rate.first_batch_s:.1f} s"
        )
    name = f"{augmented.augment} on {augmented.device}"
    console.say(f"augment {name:<15} {augmented.frames_per_s:8.1f} frames/s")


def _counts(text: str) -> list[int]:
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--workers is {text!r}; give numbers of processes, for example 0,4,8.") from error
    if min(counts) < 0:
        raise UsageError(f"--workers is {text!r}; a number of processes is at least 0.")
    return counts


@app.command("fetch")
def fetch(
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Data set on the Hugging Face hub.")] = (
        "CVI2-UniLU/SPARK-2026"
    ),
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for its files; an earlier try is resumed.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; the main branch if not given.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Address of another hub than the public one.")] = None,
    force: ForceOption = False,
    json: Annotated[str | None, typer.Option("--json", help="Write what was fetched to FILE, or - for stdout.")] = None,
) -> None:
    """Download a published data set and unpack it; of the `data` commands only this one uses the network.

    Example: spacecompile data fetch CVI2-UniLU/SPARK-2026 -o spark2026
    """
    require_extra("hub", "data fetch")
    console.check_json(json, force=force, output=output)
    from spacecompile.data.hub import fetch as fetch_data

    with console.progress_bar() as progress:
        fetched = fetch_data(
            repo, output, revision=revision, endpoint=endpoint, bars=not console.stderr.quiet, progress=progress
        )
    for entry in fetched.splits:
        lacking = f", [yellow]{entry.missing} files missing[/]" if entry.missing else ""
        console.say(f"{entry.split}: {entry.frames} frames of {entry.format} in {escape(str(entry.root))}{lacking}")
    console.say(f"next: [bold]spacecompile data check --data {console.quoted(fetched.splits[0].root)}[/]")
    if json is not None:
        content: dict[str, Any] = {"repo": fetched.repo, "revision": fetched.revision}
        console.emit_json(
            content | {"splits": [asdict(entry) | {"root": str(entry.root)} for entry in fetched.splits]}, json
        )
