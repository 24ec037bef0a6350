"""The ordered passes and the one function that runs them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from spacecompile.contract import PassReport, Progress, no_progress
from spacecompile.export.rewrite.base import Pass, UnprovenError, cost_of_network, dtype_of, in_float64
from spacecompile.export.rewrite.batchnorm import FoldBatchNorm
from spacecompile.export.rewrite.dropout import RemoveDropout
from spacecompile.export.rewrite.input_scale import FoldInputScale
from spacecompile.export.rewrite.mit_attention import FoldAttentionScale, FoldSingleHead
from spacecompile.export.rewrite.mit_layout import LayOutMit
from spacecompile.export.rewrite.norm_affine import FoldNormAffine
from spacecompile.export.rewrite.part_threshold import FoldPartThreshold
from spacecompile.export.rewrite.reparameterise import Reparameterise
from spacecompile.export.rewrite.segformer_head import CollapseSegformerHead
from spacecompile.export.rewrite.unused import RemoveUnused
from spacecompile.export.rewrite.upsampling import MovePointwiseFirst
from spacecompile.network.model import MultiTaskNetwork

logger = logging.getLogger(__name__)

PASSES: tuple[Pass, ...] = (
    RemoveDropout(),
    RemoveUnused(),
    Reparameterise(),
    FoldBatchNorm(),
    CollapseSegformerHead(),
    FoldPartThreshold(),
    MovePointwiseFirst(),
    LayOutMit(),
    FoldAttentionScale(),
    FoldSingleHead(),
    FoldNormAffine(),
    FoldInputScale(),
)
"""Passes in the order in which they run: branches merge while their batch norms are there, the SegFormer head collapses
once its own is folded, attention once it is laid out. A single head takes its norm's gain and shift itself, so norms
come after it. A threshold goes into the segmentation head before that may become part of the decoder's graph."""


def rewrite_network(
    network: MultiTaskNetwork,
    *,
    passes: Sequence[Pass] = PASSES,
    skip_unproven: bool = False,
    progress: Progress = no_progress,
) -> tuple[MultiTaskNetwork, tuple[PassReport, ...]]:
    """Run exact passes on a copy of a network.

    All passes work in float64 and the result is rounded once, at the end, so that no pass adds rounding to another's.

    Args:
        network: Network to rewrite; left as it is.
        passes: Passes in the order in which they run.
        skip_unproven: Whether to go on without a pass that can't prove itself, with a warning and the reason in the
            pass's report, instead of failing.
        progress: Callback for progress.

    Returns:
        The rewritten network in the dtype of `network` and evaluation mode, frozen; and one report per pass.

    Raises:
        UnprovenError: If a pass can't prove itself; names the pass.
    """
    # Sums depend on the number of threads, and the proofs' errors are in the manifest.
    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rewritten(network, passes, skip_unproven=skip_unproven, progress=progress)
    finally:
        torch.set_num_threads(threads_before)


def _rewritten(
    network: MultiTaskNetwork, passes: Sequence[Pass], *, skip_unproven: bool, progress: Progress
) -> tuple[MultiTaskNetwork, tuple[PassReport, ...]]:
    progress("rewrite", 0, len(passes))
    rewritten, cost = in_float64(network), cost_of_network(network)
    reports: list[PassReport] = []
    for done, step in enumerate(passes, start=1):
        try:
            rewritten, report = step.run(rewritten, before=cost)
        except UnprovenError as error:
            if not skip_unproven:
                raise
            logger.warning("rewrite pass %s is skipped: it %s", step.name, error.reason)
            report = PassReport(
                name=step.name, changed=False, before=cost, after=cost, relative_error=0.0, skipped=error.reason
            )
        reports.append(report)
        cost = report.after
        progress("rewrite", done, len(passes))
    return rewritten.to(dtype_of(network)).requires_grad_(False), tuple(reports)
