"""The line that says what a certificate found; `build` and `verify` share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacecompile.export.parity import VariantParity


def parity_line(verdict: VariantParity, *, backend: str | None = None) -> str:
    """One verdict in one line.

    Args:
        verdict: On one file.
        backend: That ran it, where that is not said elsewhere.
    """
    frames = " + ".join(f"{count} {kind}" for kind, count in verdict.num_frames.items())
    name = verdict.variant if backend is None else f"{verdict.variant} on {backend}"
    return (
        f"parity {name}: {frames} frames, same class on {verdict.class_agreement:.1%}, class probabilities "
        f"within {verdict.class_probs_max:.1e} (worst {verdict.worst_frames['class_probs']}), parts IoU >= "
        f"{verdict.parts_iou_min:.6f}, box within {verdict.box_px_max:.3f} px"
    )
