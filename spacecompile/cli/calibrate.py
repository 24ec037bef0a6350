"""`spacecompile calibrate`: the same checkpoint with the box rule that fits labelled frames best."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from spacecompile.cli import console
from spacecompile.cli.own_process import wait_passively
from spacecompile.cli.show.layout import megabytes
from spacecompile.contract import Tta
from spacecompile.extras import require_extra

if TYPE_CHECKING:
    from spacecompile.box_rule import BoxRule
    from spacecompile.train.box.calibrate import CalibrationReport


def calibrate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Checkpoint file.")],
    *,
    data: Annotated[Path, typer.Option("--data", help="Folder in the SPARK format with the splits train and val.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Checkpoint to write: .pt or .safetensors.")],
    tta: Annotated[Tta, typer.Option(help="Calibrate graphs with these views too; eight times the work.")] = "none",
    head: Annotated[
        bool, typer.Option("--head", help="Train a box regression head too, on the frozen network.")
    ] = False,
    limit_frames: Annotated[int, typer.Option(min=0, help="Training frames to use; 0 for all.")] = 512,
    val_frames: Annotated[int, typer.Option(min=0, help="Validation frames to report on; 0 for all.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 for torch's choice.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the output and the JSON file.")] = False,
    json: Annotated[
        str | None, typer.Option("--json", help="Write the result as JSON to FILE, or - for stdout.")
    ] = None,
) -> None:
    """Compare ways from mask to box on labelled frames, and store the best in the checkpoint.

    Thresholds, support, soft edges and margins are fitted and chosen on the training split, by cross-validation; the
    validation split only reports. `build` seals what was chosen.

    Example: spacecompile calibrate runs/first/model.pt --data frames -o calibrated.pt
    """
    wait_passively()
    require_extra("train", "calibrating")
    console.check_json(json, force=force, output=output)
    import torch

    from spacecompile.train.box.calibrate import CalibrationJob
    from spacecompile.train.box.calibrate import calibrate as run_calibration
    from spacecompile.train.box.head import HeadSettings

    torch.set_num_threads(threads or torch.get_num_threads())
    job = CalibrationJob(
        checkpoint=checkpoint,
        data=data,
        output=output,
        tta=tta,
        head=HeadSettings() if head else None,
        limit_frames=limit_frames,
        val_frames=val_frames,
        device=device,
        force=force,
    )
    start_s = time.perf_counter()
    with console.progress_bar() as progress:
        report = run_calibration(job, progress=progress)
    _say_table(report)
    console.say(
        f"{escape(str(output))}, {megabytes(output.stat().st_size, 2)}, in {time.perf_counter() - start_s:.0f} s. "
        f"Next: [bold]spacecompile build {console.quoted(output)}[/]"
    )
    if json is not None:
        console.emit_json(report, json)


def _say_table(report: CalibrationReport) -> None:
    title = f"S_det on {report.train_frames} training frames (each judged by the others) and {report.val_frames} of val"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("estimator", "views"):
        table.add_column(name, no_wrap=True)
    for name in ("train", "val", "rule"):
        table.add_column(name, justify="left" if name == "rule" else "right", no_wrap=name != "rule")
    for estimate in report.estimates:
        style = "bold" if estimate.chosen else ""
        name = f"{estimate.name} (kept)" if estimate.chosen else estimate.name
        scores = (f"{estimate.s_det_train:.4f}", f"{estimate.s_det_val:.4f}")
        table.add_row(name, estimate.tta, *scores, rule_text(estimate.rule), style=style)
    console.stderr.print(table)


def rule_text(rule: BoxRule) -> str:
    """A rule in one line: its threshold, and what differs from doing nothing."""
    words = [f"p > {rule.threshold:g}"]
    if rule.support_px > 1:
        words.append(f"support {rule.support_px} px")
    if rule.softness:
        words.append(f"softness {rule.softness:g}")
    if any(rule.margins_px):
        words.append("margins " + " ".join(f"{margin_px:+.1f}" for margin_px in rule.margins_px) + " px")
    if any(rule.margin_shares):
        words.append("and " + " ".join(f"{share:+.1%}" for share in rule.margin_shares))
    if rule.residual:
        words.append("with residual")
    return ", ".join(words)
