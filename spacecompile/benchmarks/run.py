"""A benchmark that is under way: what is known so far, valid at any moment."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from spacecompile.benchmarks.agreement import Agreement
from spacecompile.benchmarks.cost.records import GraphCost, StageCost
from spacecompile.benchmarks.frame_stream import FrameStream
from spacecompile.benchmarks.latency.interleaved import Recording
from spacecompile.benchmarks.latency.paced import Handled, summarise_paced
from spacecompile.benchmarks.latency.records import (
    ColdStart,
    Energy,
    Latency,
    Paced,
    ProcessStart,
    Throughput,
    VariantEngine,
)
from spacecompile.benchmarks.latency.summary import paired_ratio, summarise
from spacecompile.benchmarks.latency.variants import Entrant
from spacecompile.benchmarks.limits.records import LimitReport
from spacecompile.benchmarks.limits.scaling_records import ScalingReport
from spacecompile.benchmarks.peers.records import Peer
from spacecompile.benchmarks.peers.table import PeerEntry
from spacecompile.errors import SpacecompileError, from_unexpected
from spacecompile.machine.watch import MachineWatch
from spacecompile.metrics import Scores
from spacecompile.runtime.answer import Answer

INTERRUPTED = "the run was interrupted before it was measured"

PICTURES = 6
"""Answers that are kept for pictures."""

_log = logging.getLogger(__name__)

NO_DATA = "Not measured: give labelled frames in the SPARK format with --data DIR"


@dataclass(kw_only=True)
class Further:
    """What was measured so far."""

    roofline: LimitReport | UnsetType = UNSET
    roofline_note: str | UnsetType = UNSET
    scaling: ScalingReport | UnsetType = UNSET


@dataclass(kw_only=True)
class Contest:
    """What a latency run found, valid at any moment.

    Attributes:
        engines: What runs each variant that could be loaded.
        skipped: Why a variant can't run here, and what to do, by variant.
        cold_starts: By variant.
        entries: Peers that were to take part.
        agreements: By peer.
        versions: Of their engines, by peer.
        missing: Why a peer did not run, by peer.
        notes: What a peer does otherwise than the variants, by peer.
        order: Names of all who take part, variants first.
        of_files: Names of contestants that are handed files, and the variant of each.
        recording: The samples.
        handled: Frames of the paced run, by contestant.
        energy: By variant.
        energy_note: Why there is none, or why some variants have none.
        samples: A few frames with the answers of the first variant, for pictures.
    """

    engines: dict[str, VariantEngine] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    cold_starts: dict[str, ColdStart] = field(default_factory=dict)
    entries: tuple[PeerEntry, ...] = ()
    agreements: dict[str, Agreement] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    of_files: dict[str, str] = field(default_factory=dict)
    recording: Recording = field(default_factory=Recording)
    handled: dict[str, list[Handled]] = field(default_factory=dict)
    energy: dict[str, Energy] = field(default_factory=dict)
    energy_note: str = ""
    samples: list[tuple[NDArray[np.uint8], Answer]] = field(default_factory=list)

    def latencies(self, percentiles: tuple[float, ...]) -> dict[str, dict[str, Latency]]:
        """Summaries by scope and contestant; a scope that nobody was measured in is left out."""
        recorded = self.recording
        from_file = {self.of_files[name]: recorded.app_ms[name] for name in self.of_files if name in recorded.app_ms}
        around: dict[str, dict[str, dict[int, float]]] = {"app": recorded.app_ms, "file": from_file}
        scopes = {"engine": recorded.within_ms["engine"], "device": recorded.within_ms["device"]} | around
        summaries = {
            scope: {
                name: summarise(list(by_name[name].values()), percentiles) for name in self.order if name in by_name
            }
            for scope, by_name in scopes.items()
        }
        return {scope: by_name for scope, by_name in summaries.items() if by_name or scope != "file"}

    def paced(self, rate_hz: float, percentiles: tuple[float, ...]) -> dict[str, Paced]:
        """Summaries of the paced run by contestant."""
        return {
            name: summarise_paced(handled, rate_hz, percentiles) for name, handled in self.handled.items() if handled
        }

    def peers(self, variants: Sequence[Entrant], *, unreached: str = INTERRUPTED) -> dict[str, Peer]:
        """Every peer with its ratios, or with what keeps it away.

        Args:
            variants: That it is compared with.
            unreached: Why the latency run ended before a peer that nothing keeps away.
        """
        return {entry.name: self._peer(entry, variants, unreached) for entry in self.entries}

    def _peer(self, entry: PeerEntry, variants: Sequence[Entrant], unreached: str) -> Peer:
        app_ms = self.recording.app_ms
        theirs_ms = app_ms.get(entry.name, {})
        ratios = {
            entrant.name: ratio
            for entrant in variants
            # A peer that augments is no measure for a variant that does not.
            if (entry.tta == "none" or entrant.variant.tta != "none")
            and (ratio := paired_ratio(app_ms.get(entrant.name, {}), theirs_ms)) is not None
        }
        missing = self.missing.get(entry.name) or (None if theirs_ms else unreached)
        agreement = self.agreements.get(entry.name, UNSET)
        return Peer(
            label=entry.label,
            agreement=agreement,
            ratios=ratios,
            missing=missing,
            tta=entry.tta,
            versions=self.versions.get(entry.name, ""),
            note=self.notes.get(entry.name, ""),
        )


@dataclass(kw_only=True)
class Draft:
    """What a run has found.

    Attributes:
        watch: Of the machine, from the start of the run.
        load_average_start: Before it.
        parity: `reports/parity.json` of the bundle.
        missing_backends: See `result_records.BenchResult`.
        contest: Latency.
        stream: Frames of it.
        process_start, throughput, scores: By entrant.
        torch_scores: By augmentation.
        graphs: By variant.
        stages: Of the network.
        cost_notes: Why graphs or stages are not there, by that name.
        notes: Why `process_start` or `drops` are not there, by that name.
        further: Limits and scaling.
        interrupted: Whether it was.
        failed: Steps after the latency run that failed, with their errors, in order.
    """

    watch: MachineWatch
    load_average_start: float | None
    parity: Any
    missing_backends: dict[str, str]
    contest: Contest = field(default_factory=Contest)
    stream: FrameStream | None = None
    process_start: dict[str, ProcessStart] = field(default_factory=dict)
    throughput: dict[str, tuple[Throughput, ...]] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    torch_scores: dict[str, Scores] = field(default_factory=dict)
    graphs: dict[str, GraphCost] = field(default_factory=dict)
    stages: tuple[StageCost, ...] = ()
    cost_notes: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    further: Further = field(default_factory=Further)
    interrupted: bool = False
    failed: dict[str, SpacecompileError] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """Whether something that was asked for is not there."""
        return self.interrupted or bool(self.failed)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a step whose failure must not take with it what was measured before, not even a bug's.

        Args:
            name: Of the step, in the results.
        """
        try:
            yield
        except SpacecompileError as error:
            self.failed[name] = error
        except Exception as error:  # noqa: BLE001  hours of measurements are worth more than to stop at once
            self.failed[name] = unforeseen(name, error)


def unforeseen(step: str, error: Exception) -> SpacecompileError:
    """What stopped a step that no code foresaw; the log gets the traceback.

    Args:
        step: Its name in the results.
        error: What was raised.
    """
    _log.error("the step %s stopped", step, exc_info=error)
    failure = from_unexpected(error)
    failure.__cause__ = error
    return failure
