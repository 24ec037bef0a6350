"""What a file costs the task: the drop of the benchmark's score below PyTorch's on frames that have labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spacecompile.contract import Cost
from spacecompile.export.parity.reference import ExpectedAnswer
from spacecompile.metrics import ScoreMeter
from spacecompile.runtime.backend import RawAnswer


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What S_final needs beside answers.

    Attributes:
        classes: Names in the order of the class probabilities.
        cost: Cost of one forward pass, the same for both sides, so that the drop is that of the accuracy.
    """

    classes: Sequence[str]
    cost: Cost


def score_drop_of(pairs: Sequence[tuple[ExpectedAnswer, RawAnswer]], scoring: Scoring) -> float | None:
    """S_final of the expected answers less that of the given ones, over frames with a label of a known class."""
    expected_meter, given_meter = ScoreMeter(), ScoreMeter()
    for case, given in pairs:
        truth = case.frame.truth
        if truth is None or truth.class_name not in scoring.classes:
            continue
        for meter, answer in ((expected_meter, case.answer), (given_meter, given)):
            meter.add(
                int(answer.class_probs_L.argmax()),
                scoring.classes.index(truth.class_name),
                answer.parts_HW,
                truth.parts_HW,
                np.nan_to_num(answer.box_xyxy),
                truth.box_xyxy,
            )
    if not expected_meter.frames:
        return None
    return expected_meter.scores(scoring.cost).s_final - given_meter.scores(scoring.cost).s_final
