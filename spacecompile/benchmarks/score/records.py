"""Records of the benchmark's score."""

from __future__ import annotations

import msgspec

from spacecompile.metrics import Scores
from spacecompile.record import Record


class ScoreReport(Record):
    """The benchmark's scores of the shipped files.

    Attributes:
        data: Where the labelled frames came from.
        split: Of that data set.
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
