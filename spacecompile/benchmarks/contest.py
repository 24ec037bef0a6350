"""One latency run: every variant and every peer set up, checked for the same answers, measured, and closed.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from spacecompile.benchmarks.answers import AgreementTolerance, Answered, compare, tolerance_for
from spacecompile.benchmarks.frames import FrameStream
from spacecompile.benchmarks.latency import Contestant, LatencySettings, Recording, measure
from spacecompile.benchmarks.peer_table import PEERS, PeerContestant, PeerEntry, answered_from_peer, open_peers
from spacecompile.benchmarks.records import Agreement, ColdStart, Latency, Peer, VariantEngine
from spacecompile.benchmarks.summary import paired_ratio, summarise
from spacecompile.benchmarks.variants import LoadSettings, VariantContestant, answered_from_answer, open_variant
from spacecompile.contract import Progress, Variant, no_progress
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.bundle import Bundle

INTERRUPTED = "the run was interrupted before it was measured"

PICTURES = 6
"""Answers that are kept for pictures."""


@dataclass(frozen=True, kw_only=True)
class ContestSettings:
    """Who takes part and how long.

    Attributes:
        how: How the variants are loaded; the peers take its number of threads, and their libraries' defaults beyond.
        latency: How long.
        percentiles: Beside the usual ones.
    """

    how: LoadSettings
    latency: LatencySettings
    percentiles: tuple[float, ...] = ()


@dataclass(kw_only=True)
class Contest:
    """What a latency run found, valid at any moment.

    Attributes:
        engines: What runs each variant that could be loaded.
        skipped: Why a variant can't run here, and what to do, by variant.
        cold_starts: By variant.
        agreements: By peer.
        missing: Why a peer did not run, by peer.
        order: Names of all who take part, variants first.
        recording: The samples.
        samples: A few frames with the answers of the first variant, for pictures.
    """

    engines: dict[str, VariantEngine] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    cold_starts: dict[str, ColdStart] = field(default_factory=dict)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    recording: Recording = field(default_factory=Recording)
    samples: list[tuple[NDArray[np.uint8], Answer]] = field(default_factory=list)

    def latencies(self, percentiles: tuple[float, ...]) -> dict[str, dict[str, Latency]]:
        """Summaries by scope and contestant."""
        scopes = {"engine": self.recording.engine_ms, "app": self.recording.app_ms}
        return {
            scope: {
                name: summarise(list(by_name[name].values()), percentiles) for name in self.order if name in by_name
            }
            for scope, by_name in scopes.items()
        }

    def peers(self, variants: Sequence[str]) -> dict[str, Peer]:
        """Every peer with its ratios, or with what keeps it away."""
        return {entry.name: self._peer(entry, variants) for entry in PEERS}

    def _peer(self, entry: PeerEntry, variants: Sequence[str]) -> Peer:
        app_ms = self.recording.app_ms
        theirs_ms = app_ms.get(entry.name, {})
        ratios = {
            name: ratio for name in variants if (ratio := paired_ratio(app_ms.get(name, {}), theirs_ms)) is not None
        }
        missing = self.missing.get(entry.name) or (None if theirs_ms else INTERRUPTED)
        agreement = self.agreements.get(entry.name, UNSET)
        return Peer(label=entry.label, agreement=agreement, ratios=ratios, missing=missing)


def run_contest(
    bundle: Bundle,
    variants: Sequence[Variant],
    stream: FrameStream,
    checkpoint: Path | str,
    *,
    settings: ContestSettings,
    contest: Contest,
    progress: Progress = no_progress,
) -> None:
    """Fill `contest`; it stays valid when a KeyboardInterrupt passes through.

    Args:
        bundle: Verified.
        variants: Of it, at least one. The peers' answers are compared with the first without test-time augmentation.
        stream: Frames.
        checkpoint: For the peers; a text says why there is none, and what to do.
        settings: How.
        contest: To fill.
        progress: Told each step.

    Raises:
        MissingPartError, UsageError: If none of the variants can run here.
    """
    with ExitStack() as stack:
        opened = _open_variants(bundle, variants, stream, contest, settings.how, stack=stack, progress=progress)
        able = [variant for variant in variants if variant.name in opened]
        reference = next((variant for variant in able if variant.tta == "none"), able[0])
        answers = [opened[reference.name].run(frame_HWC) for frame_HWC in stream.frames_HWC]
        contest.samples = list(zip(stream.frames_HWC, answers, strict=True))[:PICTURES]
        peers, contest.missing = open_peers(checkpoint, threads=settings.how.threads, progress=progress)
        for peer in peers:
            stack.callback(peer.close)
        expected = [answered_from_answer(answer) for answer in answers]
        tolerance = tolerance_for(bundle.manifest.spec)
        contest.agreements = _agreements(peers, stream, expected, tolerance, progress)
        everyone: list[Contestant] = [*opened.values(), *peers]
        contest.order = [contestant.name for contestant in everyone]
        measure(everyone, stream.frames_HWC, settings.latency, contest.recording, progress=progress)


def _open_variants(
    bundle: Bundle,
    variants: Sequence[Variant],
    stream: FrameStream,
    contest: Contest,
    how: LoadSettings,
    *,
    stack: ExitStack,
    progress: Progress,
) -> dict[str, VariantContestant]:
    """Load the variants that can run here; what keeps the others away goes into `contest`."""
    opened: dict[str, VariantContestant] = {}
    failures: list[MissingPartError | UsageError] = []
    for done, variant in enumerate(variants, start=1):
        try:
            contestant, cold_start = open_variant(bundle, variant, stream.frames_HWC[0], how=how)
        except (MissingPartError, UsageError) as error:
            contest.skipped[variant.name] = str(error)
            failures.append(error)
            continue
        stack.callback(contestant.close)
        opened[variant.name], contest.cold_starts[variant.name] = contestant, cold_start
        contest.engines[variant.name] = contestant.engine
        progress("load variants", done, len(variants))
    if not opened:
        # A part that can be added is the better advice than a flag to change.
        raise next((error for error in failures if isinstance(error, MissingPartError)), failures[0])
    return opened


def _agreements(
    peers: Sequence[PeerContestant],
    stream: FrameStream,
    expected: Sequence[Answered],
    tolerance: AgreementTolerance,
    progress: Progress,
) -> dict[str, Agreement]:
    """Compare every peer's answers with the variant's before any of them is timed."""
    agreements = {}
    for done, peer in enumerate(peers, start=1):
        given = [answered_from_peer(peer.run(frame_HWC)) for frame_HWC in stream.frames_HWC]
        agreements[peer.name] = compare(given, expected, tolerance)
        progress("compare answers", done, len(peers))
    return agreements
