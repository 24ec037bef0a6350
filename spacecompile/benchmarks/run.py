"""A benchmark that is under way: what it measures, and what is known so far, valid at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from spacecompile.benchmarks.agreement import Agreement
from spacecompile.benchmarks.frame_stream import FrameStream, labelled_frames, stream_from_bundle, stream_from_data
from spacecompile.benchmarks.latency.interleaved import Recording
from spacecompile.benchmarks.latency.records import ColdStart, Latency, VariantEngine
from spacecompile.benchmarks.latency.summary import paired_ratio, summarise
from spacecompile.benchmarks.latency.variants import Entrant, VariantContestant, entrants
from spacecompile.benchmarks.peers.records import Peer
from spacecompile.benchmarks.peers.table import PeerContestant, PeerEntry, chosen_peers
from spacecompile.benchmarks.score.evaluate import check_frames
from spacecompile.benchmarks.settings import BenchSettings
from spacecompile.benchmarks.source_checkpoint import check_checkpoint, find_checkpoint
from spacecompile.contract import Progress, Variant
from spacecompile.data.labels import LabelledFrame
from spacecompile.errors import IntegrityError, SpacecompileError, UsageError
from spacecompile.machine.environment import load_average
from spacecompile.machine.watch import MachineWatch
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.bundle import Bundle

INTERRUPTED = "the run was interrupted before it was measured"
NO_DATA = "Not measured: give labelled frames in the SPARK format with --data DIR"
NO_PEERS = "left out on request"
PARITY_PATH = "reports/parity.json"


@dataclass(kw_only=True)
class Race:
    """The latency run: who takes part, what keeps others away, and the samples so far.

    Attributes:
        variants: Contestants of the bundle, open as long as the race goes on.
        peers: Peers that answer, open as long as the race goes on.
        engines: Engine that runs each variant that could be loaded.
        skipped: Why a variant can't run here, and what to do, by variant.
        cold_starts: First start of each variant.
        entries: Peers that were to take part.
        agreements: How far each peer's answers are from a variant's.
        versions: Versions of the peers' engines.
        missing: Why a peer did not run, by peer.
        notes: What a peer does otherwise than the variants, by peer.
        order: Names of all who take part, variants first.
        of_files: Names of contestants that are handed files, and the variant of each.
        recording: The samples.
        samples: A few frames with the answers of the first variant, for pictures.
    """

    variants: list[VariantContestant] = field(default_factory=list)
    peers: list[PeerContestant] = field(default_factory=list)
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

    def peer_rows(self, variants: Sequence[Entrant], *, unreached: str) -> dict[str, Peer]:
        """Every peer with its ratios, or with what keeps it away.

        Args:
            variants: Variants that the peers are compared with.
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
        return Peer(
            label=entry.label,
            agreement=self.agreements.get(entry.name, UNSET),
            ratios=ratios,
            missing=missing,
            tta=entry.tta,
            versions=self.versions.get(entry.name, ""),
            note=self.notes.get(entry.name, ""),
        )


@dataclass(kw_only=True)
class Run:
    """One benchmark of one bundle: its inputs, and every section so far.

    Attributes:
        bundle: Bundle with every hash checked.
        settings: What to measure, and how.
        progress: Callback for progress.
        entrants: Variants on their engines that were asked for.
        missing_backends: Why a certified backend is not on this machine, and what adds it, by name.
        labelled: Frames to score; none without data.
        checkpoint: File with the bundle's source weights; a text says why there is none, and what to do.
        sizes: The checkpoint that scaling builds other sizes from; None where scaling is not asked for.
        parity: Content of the bundle's `reports/parity.json`.
        watch: Watch over the machine from the start of the run.
        load_average_start: Load average before the run.
        stream: Frames of the latency run; None until they are read.
        race: The latency run.
        sections: What each step has measured so far, by its name.
        notes: Why a section is not there, by the name of its step.
        failed: Errors of steps that failed, in order.
        interrupted: Whether the run was interrupted.
    """

    bundle: Bundle
    settings: BenchSettings
    progress: Progress
    entrants: tuple[Entrant, ...]
    missing_backends: dict[str, str]
    labelled: Sequence[LabelledFrame]
    checkpoint: Path | str
    sizes: Path | None
    parity: Any
    watch: MachineWatch
    load_average_start: float | None
    stream: FrameStream | None = None
    race: Race = field(default_factory=Race)
    sections: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    failed: dict[str, SpacecompileError] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def partial(self) -> bool:
        """Whether something that was asked for is not there."""
        return self.interrupted or bool(self.failed)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Variants that were asked for, each once."""
        return tuple({entrant.variant.name: entrant.variant for entrant in self.entrants}.values())

    @property
    def able(self) -> list[Entrant]:
        """Entrants that could be loaded."""
        return [entrant for entrant in self.entrants if entrant.name in self.race.engines]

    @property
    def frames_HWC(self) -> Sequence[NDArray[np.uint8]]:
        """Frames of the latency run, once they are read."""
        assert self.stream is not None  # `run_bench` reads them first
        return self.stream.frames_HWC

    def fail(self, step: str, error: SpacecompileError, _unforeseen: bool) -> None:
        """Note that a step failed."""
        self.failed[step] = error

    def why(self, step: str) -> str:
        """Why the section of a step is not there, or not whole; empty where it is."""
        return self.notes.get(step) or str(self.failed.get(step, ""))


def prepared_run(bundle: Bundle, settings: BenchSettings, progress: Progress) -> Run:
    """A run whose inputs are found and checked, before anything is measured.

    Raises:
        SpacecompileError: If an input can't be used.
    """
    chosen = tuple(bundle.variant(name) for name in settings.variants) or bundle.manifest.variants
    asked, missing_backends = entrants(chosen, settings.backends, settings.contest.how)
    chosen_peers(settings.contest.peers, ())
    return Run(
        bundle=bundle,
        settings=settings,
        progress=progress,
        entrants=asked,
        missing_backends=missing_backends,
        labelled=_labelled(bundle, settings),
        checkpoint=_checkpoint_for_peers(bundle, settings),
        sizes=_checkpoint_for_sizes(bundle, settings),
        parity=_parity(bundle),
        watch=MachineWatch(),
        load_average_start=load_average(),
    )


def read_stream(run: Run) -> FrameStream:
    """The frames of the latency run: labelled ones where there is data, else the bundle's self-test frames."""
    settings, frame_size_px = run.settings, run.bundle.manifest.spec.frame_size_px
    if settings.data is None:
        return stream_from_bundle(run.bundle, settings.stream_frames)
    return stream_from_data(settings.data, settings.split, frame_size_px, settings.stream_frames)


def _labelled(bundle: Bundle, settings: BenchSettings) -> list[LabelledFrame]:
    if settings.data is None:
        return []
    frames = labelled_frames(settings.data, settings.split, settings.score_limit)
    check_frames(frames, bundle.manifest.spec)
    return frames


def _checkpoint_for_peers(bundle: Bundle, settings: BenchSettings) -> Path | str:
    """The checkpoint, or why there is none."""
    if not settings.peers:
        return NO_PEERS
    source_sha256 = bundle.manifest.source_sha256
    if settings.checkpoint is not None:
        return check_checkpoint(settings.checkpoint, source_sha256)
    found = find_checkpoint(source_sha256, bundle_root=bundle.root, working_folder=Path())
    return found or (
        f"the checkpoint with SHA-256 {source_sha256[:12]} is neither in checkpoints/ nor beside the bundle; "
        f"add it with: spacecompile bench {bundle.root} --checkpoint CKPT"
    )


def _checkpoint_for_sizes(bundle: Bundle, settings: BenchSettings) -> Path | None:
    """The checkpoint that scaling builds from; whether peers take part does not matter to it."""
    if settings.limits is None or not settings.limits.scaling:
        return None
    found = _checkpoint_for_peers(bundle, replace(settings, peers=True))
    if isinstance(found, str):
        raise UsageError(f"--scaling builds other sizes from the bundle's source, but {found}")
    return found


def _parity(bundle: Bundle) -> Any:
    if PARITY_PATH not in bundle.manifest.files:
        return UNSET
    try:
        return msgspec.json.decode(bundle.read(PARITY_PATH))
    except msgspec.DecodeError as error:
        raise IntegrityError(f"{bundle.root / PARITY_PATH} is not JSON: {error}. Build the bundle again.") from error
