"""PyTorch's own scores of a checkpoint, next to those of the files that ship. Needs torch.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from spacecompile.benchmarks.score.evaluate import evaluate
from spacecompile.benchmarks.score.torch_reference import TorchReference
from spacecompile.contract import ModelSpec, Progress, Tta, no_progress
from spacecompile.data.labels import LabelledFrame
from spacecompile.metrics import Scores
from spacecompile.network.checkpoint import load_source


def torch_scores(
    checkpoint: Path,
    spec: ModelSpec,
    ttas: Sequence[Tta],
    frames: Sequence[LabelledFrame],
    *,
    progress: Progress = no_progress,
) -> Iterator[dict[Tta, Scores]]:
    """Score the network as it was trained, neither rewritten nor exported; yields the scores with each augmentation.

    Args:
        checkpoint: Checkpoint of the bundle.
        spec: Spec of the bundle.
        ttas: Test-time augmentations.
        frames: With their labels.
        progress: Told the frames done.
    """
    loaded = load_source(checkpoint, spec)
    scores: dict[Tta, Scores] = {}
    for tta in dict.fromkeys(ttas):
        reference = TorchReference(loaded, tta)
        scores[tta] = evaluate(
            reference,
            frames,
            spec=spec,
            cost=reference.cost(),
            step=f"score PyTorch {tta}",
            progress=progress,
        )
        yield scores
