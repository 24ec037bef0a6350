"""The tables of `spacecompile build` on stderr: what the rewrites saved, what each variant is and gains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from spacecompile.cli import console
from spacecompile.cli.show.layout import megabytes
from spacecompile.page.table import giga, mega

if TYPE_CHECKING:
    from spacecompile.contract import PassReport
    from spacecompile.export.build_report import BuildReport
    from spacecompile.export.parity.verdict import VariantParity


def say_passes(reports: Sequence[PassReport]) -> None:
    """Print what each pass saved and how exact it was; nothing where no pass ran.

    Args:
        reports: One report per pass, in the order in which the passes ran.
    """
    if not reports:
        return
    table = Table(title="Rewrites", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in ("pass", "GMAC (fvcore)", "M parameters"):
        table.add_column(column, no_wrap=True)
    # A reason for skipping may be long; it wraps, and the numbers beside it stay whole.
    table.add_column("relative error")
    for report in reports:
        table.add_row(report.name, *_cells(report))
    console.stderr.print(table)


def say_precisions(report: BuildReport) -> None:
    """Print what each variant computes in, its size, its certificates and its time, and what stayed float32, and why.

    Args:
        report: Report of a finished build.
    """
    table = Table(title="Variants", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in ("variant", "file", "multiply-adds", "certified on (median in the check)"):
        table.add_column(column, no_wrap=True)
    for variant in report.variants:
        file = report.precision.files[variant.path]
        shares = ", ".join(f"{share:.0%} {name}" for name, share in file.mac_shares.items())
        computes = f"{shares}, run in bf16" if variant.precision == "bf16" else shares
        certified = ", ".join(
            f"{name} ({report.medians_ms[f'{variant.name}, {name}']:.0f} ms)" for name in variant.certified
        )
        table.add_row(variant.name, megabytes(file.bytes), computes, certified)
    console.stderr.print(table)
    fp16, int8 = report.precision.fp16, report.precision.int8
    if fp16 is not None:
        kinds = Counter(f"{node.op}, {node.reason}" for node in fp16.float_nodes)
        stays = "; ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "nothing"
        console.say_line(
            f"fp16: float32 inside the network stay {escape(stays)}; largest value {fp16.magnitude_max:.4g} of 65504"
        )
    if int8 is not None:
        back = ", ".join(layer.layer for layer in int8.raised) or "none"
        console.say_line(f"int8: {len(int8.int8)} layers; back in float32 for parity: {escape(back)}")


def _cells(report: PassReport) -> tuple[str, str, str]:
    if report.skipped:
        return "", "", f"[yellow]skipped: it {escape(report.skipped)}[/]"
    if not report.changed:
        return "", "", "[dim]nothing to do[/]"
    before, after = report.before, report.after
    return (
        _change(giga(before.macs_fvcore), giga(after.macs_fvcore)),
        _change(mega(before.params), mega(after.params)),
        f"{report.relative_error:.1e}",
    )


def _change(before: str, after: str) -> str:
    """Both numbers where they differ as printed."""
    return before if before == after else f"{before} -> {after}"


def parity_line(verdict: VariantParity) -> str:
    """One verdict in one line."""
    frames = " + ".join(f"{count} {kind}" for kind, count in verdict.num_frames.items())
    share = verdict.tolerance.box_share_min
    on_share = f" on {share:.0%} of the frames" if share < 1 else ""
    drop = "S_final not judged without labels"
    if verdict.score_drop is not None:
        drop = f"S_final drops by {verdict.score_drop:.4f}"
    return (
        f"parity {verdict.variant} on {verdict.backend}: {frames} frames, same class on {verdict.class_agreement:.1%}, "
        f"class probabilities within {verdict.class_probs_max:.1e} (worst {verdict.worst_frames['class_probs']}), "
        f"parts IoU >= {verdict.parts_iou_min:.6f}, mean {verdict.parts_iou_mean:.6f}, box within "
        f"{verdict.box_px_max:.3f} px{on_share}, {drop}"
    )
