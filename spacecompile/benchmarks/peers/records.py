"""What is said of a peer: how far ahead or behind it is, and that it answers right."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from spacecompile.benchmarks.agreement import Agreement
from spacecompile.benchmarks.latency.records import Ratio
from spacecompile.contract import Tta
from spacecompile.record import Record


class Peer(Record):
    """The same network as a user runs it without spacecompile.

    Attributes:
        label: What it does, in one line.
        ratios: By variant.
        agreement: With the first variant without test-time augmentation; absent when the peer did not run.
        missing: Why it did not run and what adds it, or why it left the race; None when it ran to the end.
        tta: Test-time augmentation of the peer; its answers are compared with a variant of the same.
        versions: Version of the engine that runs its network; empty in older files.
        note: What it does otherwise than the variants, such as a plain box; empty where it does the same.
    """

    label: str
    ratios: dict[str, Ratio]
    agreement: Agreement | UnsetType = UNSET
    missing: str | None = None
    tta: Tta = "none"
    versions: str = ""
    note: str = ""
