"""The line that says what a certificate found; `build` and `verify` share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacecompile.export.parity import VariantParity


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
