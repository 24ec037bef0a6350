"""Records of the benchmark's score."""

from __future__ import annotations

from typing import Literal

import msgspec

from spacecompile.contract import Cost
from spacecompile.metrics import Scores
from spacecompile.record import Record


class ScoreReport(Record):
    """The benchmark's scores of the shipped files.

    Attributes:
        data: Where the labelled frames came from.
        split: Split of the data set.
        variants: Scores by variant; test-time augmentation is not charged, as the benchmark has it.
        s_final_charged: `s_final` by variant with every view of test-time augmentation charged.
        torch: PyTorch's own scores of the same checkpoint on the same frames, neither rewritten nor exported, by
            augmentation (`none`, `d4`, `d4-median`); empty where it was not asked.
        drops: `s_final` of PyTorch with the same augmentation and the cost of the rewritten network, less the
            variant's; negative where the variant is better.
        torch_note: Why `torch` is empty, and what adds it; empty where it is not.
    """

    data: str
    split: str
    variants: dict[str, Scores]
    s_final_charged: dict[str, float] = msgspec.field(default_factory=dict)
    torch: dict[str, Scores] = msgspec.field(default_factory=dict)
    drops: dict[str, float] = msgspec.field(default_factory=dict)
    torch_note: str = ""


class Evaluation(Record):
    """Scores of one checkpoint, or of one variant of a bundle on one engine.

    Attributes:
        source: Path of the checkpoint or bundle.
        kind: Whether the source is a checkpoint or a bundle.
        source_sha256: SHA-256 of the checkpoint, or of the one that the bundle was built from.
        variant: Name of the graph.
        backend: Engine and its version.
        threads: Number of CPU threads.
        cost: Cost of one forward pass.
        forward_passes: Number of forward passes per frame.
        frames_asked: Number of frames that were to be scored; broken ones are left out of the scores.
        has_parts: Whether any frame has labelled parts; without, S_seg is 0.
        scores: Scores with one forward pass charged, as the benchmark does.
        charged: The same scores with every forward pass charged.
        assumed: Format of a foreign checkpoint, and what was assumed of it; empty for ours and for bundles.
    """

    source: str
    kind: Literal["checkpoint", "bundle"]
    source_sha256: str
    variant: str
    backend: str
    threads: int
    cost: Cost
    forward_passes: int
    frames_asked: int
    has_parts: bool
    scores: Scores
    charged: Scores
    assumed: tuple[str, ...] = ()
