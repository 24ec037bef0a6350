"""What each candidate costs after the exact rewrites, counted before any of them is trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from spacecompile.contract import ModelSpec, Progress, no_progress
from spacecompile.errors import SpacecompileError
from spacecompile.export.rewrite.pipeline import rewrite_network
from spacecompile.files import write_file
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.run import run_once
from spacecompile.search.results import Costs
from spacecompile.train.named_recipes import NamedRecipe

INPUT_MULTIPLE_PX = 32
"""Of every side of an input."""

log = logging.getLogger(__name__)


def costs_of(spec: ModelSpec, charged_size_px: tuple[int, int]) -> Costs:
    """Build an untrained network, rewrite it with proofs, and count.

    Args:
        spec: Spec of the network.
        charged_size_px: (height, width) that multiply-adds are counted at.

    Raises:
        CheckpointError: If smp refuses the network, or it does not run at the input's or the charged size.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MultiTaskNetwork(msgspec.structs.replace(spec, input_size_px=charged_size_px)).eval()
    run_once(network, spec.input_size_px)
    run_once(network, charged_size_px)
    _, reports = rewrite_network(network, skip_unproven=True)
    return Costs(
        source=reports[0].before,
        rewritten=reports[-1].after,
        size_px=charged_size_px,
        skipped=tuple(report.name for report in reports if report.skipped),
    )


def count_all(
    candidates: Sequence[NamedRecipe],
    *,
    charged_size_px: tuple[int, int] | None,
    charged_for_px: tuple[int, int] | None = None,
    cache: Path,
    progress: Progress = no_progress,
) -> dict[str, Costs | str]:
    """Count every candidate.

    Args:
        candidates: Different names.
        charged_size_px: (height, width) to count at; each candidate's own input when None.
        charged_for_px: Input that it stands for: a larger one is charged as much more. None charges all inputs alike.
        cache: JSON file of networks counted before, read and extended after each.
        progress: Told after each.

    Returns:
        By name: the costs, or why there is none.
    """
    known = _read(cache)
    found: dict[str, Costs | str] = {}
    progress("count", 0, len(candidates))
    for done, candidate in enumerate(candidates, start=1):
        spec = candidate.model_spec()
        size_px = _charged(spec.input_size_px, charged_size_px, charged_for_px)
        key = msgspec.json.encode([spec, size_px]).decode()
        try:
            known[key] = known.get(key) or costs_of(spec, size_px)
            found[candidate.name] = known[key]
        except SpacecompileError as error:
            log.warning("%s takes no part: %s", candidate.name, error)
            found[candidate.name] = str(error)
        write_file(cache, msgspec.json.encode(known))
        progress("count", done, len(candidates))
    return found


def _charged(
    input_px: tuple[int, int], charged_px: tuple[int, int] | None, charged_for_px: tuple[int, int] | None
) -> tuple[int, int]:
    """Rounded up to what encoders take; a candidate of the size that is stood for is charged exactly."""
    if charged_px is None:
        return input_px
    if charged_for_px in (None, input_px):
        return charged_px
    sides = zip(charged_px, input_px, charged_for_px or input_px, strict=True)
    height, width = (
        -(-charged * side // (base * INPUT_MULTIPLE_PX)) * INPUT_MULTIPLE_PX for charged, side, base in sides
    )
    return height, width


def _read(cache: Path) -> dict[str, Costs]:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=dict[str, Costs])
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return {}  # counted anew
