"""What a comparison of two results files says."""

from __future__ import annotations

from typing import Literal

from spacecompile.record import Record

CONFIDENCE = 0.99
"""Of the interval that decides whether a median changed."""

Verdict = Literal["same", "better", "worse", "not judged"]


class Change(Record):
    """One number in both files.

    Attributes:
        what: The number.
        group: `latency`, `score`, `cost`, `size` or `roofline`.
        unit: Unit of both values; empty for a score or a share.
        old, new: Value in the old and in the new file.
        change: New over old minus 1, so that 0.05 is 5 % more.
        over_peers: The same over the change of the peers that did the same work in both files; None where there is
            none. It is what is judged where it is there.
        interval: Interval of what is judged, at `CONFIDENCE`; None where there is no noise or too few samples.
        lower_is_better: Whether a higher value is worse.
        verdict: Beyond noise.
        note: Why it is not judged; empty otherwise.
    """

    what: str
    group: Literal["latency", "score", "cost", "size", "roofline"]
    unit: str
    old: float
    new: float
    change: float
    interval: tuple[float, float] | None
    lower_is_better: bool
    verdict: Verdict
    note: str = ""
    over_peers: float | None = None

    @property
    def worse_by(self) -> float:
        """How much worse, 0 for no worse: 0.05 is 5 %."""
        if self.verdict != "worse":
            return 0.0
        judged = self.change if self.over_peers is None else self.over_peers
        return judged if self.lower_is_better else -judged


class Comparison(Record):
    """Everything that both files hold.

    Attributes:
        old, new: Names of the files.
        bundles: Names of what was measured.
        changes: In the order of the results file.
        only_old, only_new: Contestants that one file lacks.
        drift: What the peers that did the same work in both say of the machine: new over old minus 1, by peer.
        differences: Circumstances that differ, which a change may come from.
        fail_on: Share from which something that got worse fails; None to fail never.
        failed: What got worse by as much.
        drift_note: Why no peer says how far the machine moved, as a clause; empty where one does.
    """

    old: str
    new: str
    bundles: tuple[str, str]
    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    drift: dict[str, float]
    differences: tuple[str, ...]
    fail_on: float | None
    failed: tuple[str, ...]
    drift_note: str = ""
