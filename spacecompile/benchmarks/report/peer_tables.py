"""Tables of the peers: how much faster the variants are, whether they answer the same, what they are."""

from __future__ import annotations

from msgspec import UNSET

from spacecompile.benchmarks.report.wording import ratios_of
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.page.table import Row, Table, columns_of


def ratios_table(result: BenchResult) -> Table | None:
    """Time of each variant over each peer's."""
    columns = columns_of("variant | peer: text | ratio: bold | quartiles | pairs")
    rows = tuple(
        Row(variant, (peer, f"{it.ratio:.3f}", f"{it.spread[0]:.3f} to {it.spread[1]:.3f}", str(it.rounds)))
        for variant, peer, it in ratios_of(result)
    )
    title = "Time of a variant over a peer's, same frame, same round"
    return Table(title=title, columns=columns, rows=rows) if rows else None


def agreement_table(result: BenchResult) -> Table | None:
    """Whether each peer answers as the variants do, or why it did not run."""
    if result.peers is UNSET:
        return None
    columns = columns_of(
        "peer | same class: percent | class probability, max: detail | parts IoU, mean | min: detail | "
        "pixels near: detail | box, median px | max px | frames: detail | : verdict"
    )
    rows = []
    for name, peer in result.peers.items():
        if peer.agreement is not UNSET:
            it = peer.agreement
            cells = (
                f"{100 * it.class_agreement:.0f}",
                f"{it.class_probs_max:.2g}",
                f"{it.parts_iou_mean:.4f}",
                f"{it.parts_iou_min:.4f}",
                f"{100 * it.parts_near_mean:.1f} % in {it.near_px} px",
                f"{it.box_px_median:,.1f}",
                f"{it.box_px_max:,.1f}",
                str(it.frames),
                "same task" if it.same else "differs",
            )
            rows.append(Row(name, cells, tone="good" if it.same else "bad"))
        if peer.missing or peer.agreement is UNSET:
            rows.append(Row(name, reason=f"missing: {peer.missing}" if peer.missing else "not compared"))
    return Table(title="Do they answer the same?", columns=columns, rows=tuple(rows))


def peers_table(result: BenchResult) -> Table | None:
    """What each peer does."""
    if result.peers is UNSET:
        return None
    columns = columns_of("peer | what it does: text | runs in: text | TTA: text")
    rows = tuple(
        Row(
            name,
            (f"{peer.label}; unlike the variants: {peer.note}" if peer.note else peer.label, peer.versions, peer.tta),
        )
        for name, peer in result.peers.items()
    )
    return Table(title="What the peers are", columns=columns, rows=rows, is_detail=True)
