"""The cost of each stage of a network, before and after the rewrites. Needs torch and the checkpoint.

Layout legend: N batch, C channels, H W input rows and columns.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from spacecompile.benchmarks.cost.records import StageCost
from spacecompile.contract import Cost, ModelSpec, Progress, no_progress
from spacecompile.export.rewrite.pipeline import rewrite_network
from spacecompile.network.checkpoint import load_source
from spacecompile.network.count import cost_of
from spacecompile.network.model import MultiTaskNetwork

with warnings.catch_warnings():
    # When imported, fvcore scripts a loss function that nothing here uses, and torch deprecates scripting.
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    from fvcore.nn import FlopCountAnalysis

STAGES = ("encoder", "decoder", "segmentation_head", "classification_head", "box_head")
"""In the order of computation; a network without a box head has no such stage."""

UPSAMPLING = "mask_upsampling"
"""Of the part logits to the input's size: the benchmark's count includes it, the network does not."""


def stage_costs(checkpoint: Path, spec: ModelSpec, *, progress: Progress = no_progress) -> tuple[StageCost, ...]:
    """Count a checkpoint's network as it was trained and as it ships.

    Args:
        checkpoint: Checkpoint of the bundle.
        spec: Spec of the bundle.
        progress: Told the rewrite passes.

    Returns:
        The stages in the order of computation; they add up to the cost of the whole.
    """
    loaded = load_source(checkpoint, spec)
    rewritten, _ = rewrite_network(loaded.network, skip_unproven=True, progress=progress)
    size_px = loaded.spec.input_size_px
    before, after = costs_by_stage(loaded.network, size_px), costs_by_stage(rewritten, size_px)
    return tuple(StageCost(stage=stage, before=before[stage], after=after[stage]) for stage in before)


def costs_by_stage(network: MultiTaskNetwork, input_size_px: tuple[int, int]) -> dict[str, Cost]:
    """The cost of every stage, and what is left for the upsampling of the masks.

    Args:
        network: In evaluation mode.
        input_size_px: (height, width).
    """
    parameter = next(network.parameters())
    input_NCHW = torch.zeros(1, 3, *input_size_px, dtype=parameter.dtype, device=parameter.device)
    # fvcore warns per operator that it does not count; that is its convention.
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    with torch.no_grad():
        analysis = FlopCountAnalysis(network, input_NCHW)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        fvcore: Counter[str] = analysis.by_module()
        with FlopCounterMode(display=False) as counter:
            network(input_NCHW)
    torch_flops = counter.get_flop_counts()
    root = type(network).__name__
    costs = {
        stage: Cost(
            params=sum(parameter.numel() for parameter in getattr(network, stage).parameters()),
            macs_fvcore=int(fvcore.get(stage, 0)),
            macs_torch=sum(torch_flops.get(f"{root}.{stage}", {}).values()) // 2,
        )
        for stage in STAGES
        if getattr(network, stage) is not None
    }
    whole = cost_of(network, input_size_px)
    costs[UPSAMPLING] = Cost(
        params=whole.params - sum(cost.params for cost in costs.values()),
        macs_fvcore=whole.macs_fvcore - sum(cost.macs_fvcore for cost in costs.values()),
        macs_torch=whole.macs_torch - sum(cost.macs_torch for cost in costs.values()),
    )
    return costs
