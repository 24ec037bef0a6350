"""`prove`: everything that the project promises of a GPU, on this one, in one document.

Every variant on every backend of the GPU is compared with PyTorch on the same GPU and on the CPU, raced against the
peers, and run for thousands of frames. Nothing is taken for granted: what could not be shown is listed as unproven.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.agreement import Agreement, tolerance_for
from spacecompile.benchmarks.latency.interleaved import LatencySettings, Recording, measure
from spacecompile.benchmarks.latency.summary import paired_ratio, summarise
from spacecompile.benchmarks.latency.variants import answered_from_answer
from spacecompile.benchmarks.peers.guard import answering, dropping
from spacecompile.benchmarks.peers.table import PeerContestant
from spacecompile.benchmarks.proof.contestants import DeviceContestant, HostContestant, Proven
from spacecompile.benchmarks.proof.limits import DeviceCeilingSettings, proof_limits
from spacecompile.benchmarks.proof.records import Memory, Proof, ProofLimits, ProvenParity, Soak
from spacecompile.benchmarks.proof.targets import Findings, targets_of
from spacecompile.benchmarks.proof.torch_on_gpu import answers_on_gpu
from spacecompile.contract import Progress, Variant, no_progress
from spacecompile.errors import DeviceLostError, MissingPartError, SpacecompileError, from_unexpected
from spacecompile.export.parity.frames import ParityFrame
from spacecompile.export.parity.reference import ExpectedAnswer, ViewByView, expected_answers
from spacecompile.export.parity.verdict import verdict_on
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.machine.environment import load_average, read_environment
from spacecompile.network.checkpoint import LoadedCheckpoint
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.backends.registry import BACKENDS, BackendEntry
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.cuda.device import CudaDevice
from spacecompile.runtime.cuda.driver import GpuFacts

SOAK_FRAMES = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProofSettings:
    """How long and with what.

    Attributes:
        latency: Of the race.
        soak_frames: Answered by each variant on each backend.
        threads: Of the peers and references on the CPU.
        torch_device: Of the reference and the peers on the GPU; `cpu` in a rehearsal.
        ceilings: What the latencies are compared with.
    """

    latency: LatencySettings
    soak_frames: int = SOAK_FRAMES
    threads: int = 1
    torch_device: str = "cuda"
    ceilings: DeviceCeilingSettings = field(default_factory=DeviceCeilingSettings)


@dataclass(frozen=True, kw_only=True)
class ProofInput:
    """What is proven, against what.

    Attributes:
        bundle: To prove.
        checkpoint: That it was built from.
        frames: To compare and to time on, real or rendered and adversarial.
        peers: To race against, open; the caller closes them.
        missing_peers: Why others are not there.
        device: The GPU.
        gpu: Its facts; None in a rehearsal.
    """

    bundle: Bundle
    checkpoint: LoadedCheckpoint
    frames: tuple[ParityFrame, ...]
    peers: Sequence[PeerContestant]
    missing_peers: Mapping[str, str]
    device: CudaDevice
    gpu: GpuFacts | None


@dataclass(kw_only=True)
class _Draft:
    """What was shown so far, valid at any moment."""

    parity: list[ProvenParity] = field(default_factory=list)
    memory: dict[str, Memory] = field(default_factory=dict)
    soak: dict[str, Soak] = field(default_factory=dict)
    limits: ProofLimits | None = None
    agreement: dict[str, Agreement] = field(default_factory=dict)
    recording: Recording = field(default_factory=Recording)
    proven: list[Proven] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    unforeseen: list[str] = field(default_factory=list)
    missing_peers: dict[str, str] = field(default_factory=dict)
    partial: bool = False
    stopped_by: str = ""

    @contextmanager
    def gap_for(self, what: str) -> Iterator[None]:
        """An error in the block, even a bug, is a gap of the proof, which goes on.

        Raises:
            DeviceLostError: After which nothing can go on.
        """
        try:
            yield
        except DeviceLostError:
            raise
        except SpacecompileError as error:
            self.unproven.append(f"{what}: {error}")
        except Exception as error:  # noqa: BLE001  what was shown before is worth more than to stop at once
            _log.exception("the proof of %s stopped", what)
            self.unforeseen.append(f"{what}: {from_unexpected(error)}")
            self.unproven.append(self.unforeseen[-1])


def runs_on_gpu(
    bundle: Bundle, backends: Sequence[BackendEntry] = BACKENDS
) -> tuple[list[tuple[Variant, BackendEntry]], list[str]]:
    """Which variant can be proven on which backend here, and what can't, in sentences.

    Raises:
        MissingPartError: If none can.
    """
    runs, unproven = [], []
    for entry in (it for it in backends if it.on_gpu):
        reason = entry.missing()
        fitting = [variant for variant in bundle.manifest.variants if entry.runs(variant)]
        if reason is not None:
            unproven.append(f"{entry.name}: {reason}; add it with: {entry.remedy}")
        elif not fitting:
            unproven.append(f"{entry.name}: the bundle has nothing that it runs; `spacecompile rebuild` adds plans")
        else:
            runs += [(variant, entry) for variant in fitting]
    if not runs:
        raise MissingPartError(f"nothing of this bundle can be proven on a GPU here: {'; '.join(unproven)}.")
    return runs, unproven


def prove(given: ProofInput, settings: ProofSettings, *, progress: Progress = no_progress) -> Proof:
    """Show what can be shown; a variant that fails is a gap, an interrupt or a lost GPU ends it with what it has.

    Raises:
        MissingPartError: If no variant can run on the GPU here.
    """
    load_average_start = load_average()
    runs, unproven = runs_on_gpu(given.bundle)
    draft = _Draft(unproven=unproven, missing_peers=dict(given.missing_peers))
    with ExitStack() as stack:
        try:
            _open(given, runs, draft, stack)
            _compare(given, settings, draft, progress)
            _race(given, settings, draft, progress)
            _soak(given, settings, draft, progress)
            _limit(given, settings, draft, progress)
        except KeyboardInterrupt:
            draft.partial = True
        except DeviceLostError as error:
            draft.partial, draft.stopped_by = True, str(error)
            draft.unproven.append(f"everything after the GPU was lost: {error}")
    return _proof(given, settings, draft, load_average_start)


def _open(given: ProofInput, runs: Sequence[tuple[Variant, BackendEntry]], draft: _Draft, stack: ExitStack) -> None:
    """Load every session and note what memory it takes, then what the first frames take."""
    first_HWC = given.frames[0].frame_HWC
    for variant, entry in runs:
        with draft.gap_for(f"{variant.name}@{entry.name}"):
            free_bytes = given.device.free_bytes()
            proven = Proven.opened(given.bundle, variant, entry)
            stack.callback(proven.close)
            loaded_bytes = given.device.free_bytes()
            for _ in range(3):
                proven.session(first_HWC)
            warm_bytes = given.device.free_bytes()
            draft.memory[proven.name] = Memory(
                loaded_bytes=free_bytes - loaded_bytes, warm_bytes=loaded_bytes - warm_bytes, soak_bytes=0
            )
            draft.proven.append(proven)


def _compare(given: ProofInput, settings: ProofSettings, draft: _Draft, progress: Progress) -> None:
    spec = given.checkpoint.spec
    for tta in dict.fromkeys(proven.variant.tta for proven in draft.proven):
        references: dict[str, Sequence[ExpectedAnswer]] = {}
        with draft.gap_for(f"parity, tta {tta}, since PyTorch has no answers on the CPU"):
            references["pytorch-cpu"] = expected_answers(
                SealedGraph(ViewByView(given.checkpoint.network), spec, tta),
                given.frames,
                workers=settings.threads,
                progress=progress,
            )
        if not references:
            continue
        on_cpu = references["pytorch-cpu"]
        with draft.gap_for(f"parity with PyTorch on the GPU, tta {tta}"):
            references["pytorch-gpu"] = answers_on_gpu(given.checkpoint, tta, on_cpu, device=settings.torch_device)
        for proven in [it for it in draft.proven if it.variant.tta == tta]:
            with draft.gap_for(f"parity of {proven.name}"):
                raws = []
                for done, case in enumerate(on_cpu, start=1):
                    raws.append(proven.raw(case.frame.frame_HWC))
                    progress(f"parity {proven.name}", done, len(on_cpu))
                draft.parity += [
                    _verdict(given, proven, expected, raws, against) for against, expected in references.items()
                ]


def _verdict(
    given: ProofInput,
    proven: Proven,
    expected: Sequence[ExpectedAnswer],
    raws: Sequence[RawAnswer],
    against: str,
) -> ProvenParity:
    content = given.bundle.read(proven.variant.path)
    verdict = verdict_on(
        proven.variant.name,
        backend=f"{proven.session.choice.backend} {proven.session.choice.backend_version}",
        sha256=hashlib.sha256(content).hexdigest(),
        expected=expected,
        given=raws,
        tolerance=proven.variant.tolerance,
    )
    return ProvenParity(against=against, verdict=verdict)


def _race(given: ProofInput, settings: ProofSettings, draft: _Draft, progress: Progress) -> None:
    """Every session twice, from the host and from the GPU, and the peers, in the same rounds."""
    if not draft.proven:
        return
    with draft.gap_for("the race"):
        _raced(given, settings, draft, progress)


def _raced(given: ProofInput, settings: ProofSettings, draft: _Draft, progress: Progress) -> None:
    frames_HWC = [frame.frame_HWC for frame in given.frames]
    reference = next((it for it in draft.proven if it.variant.tta == "none"), draft.proven[0])
    expected = [answered_from_answer(reference.answer(frame_HWC)) for frame_HWC in frames_HWC]
    peers = answering(
        given.peers,
        frames_HWC,
        lambda _: expected,
        tolerance_for(given.checkpoint.spec),
        agreements=draft.agreement,
        missing=draft.missing_peers,
        progress=progress,
    )
    with ExitStack() as stack:
        hosts = [HostContestant(proven) for proven in draft.proven]
        on_device = [DeviceContestant(proven, given.device, frames_HWC) for proven in draft.proven]
        for contestant in on_device:
            stack.callback(contestant.close)
        measure(
            [*hosts, *on_device, *peers],
            frames_HWC,
            settings.latency,
            draft.recording,
            drop=dropping(peers, draft.missing_peers),
            progress=progress,
        )


def _limit(given: ProofInput, settings: ProofSettings, draft: _Draft, progress: Progress) -> None:
    with draft.gap_for("the limits of the GPU"):
        draft.limits = proof_limits(
            given.bundle,
            draft.proven,
            draft.recording.app_ms,
            device=settings.torch_device,
            settings=settings.ceilings,
            gap_for=draft.gap_for,
            progress=progress,
        )


def _soak(given: ProofInput, settings: ProofSettings, draft: _Draft, progress: Progress) -> None:
    """Answer the frames over and over: the same answers, bit for bit, and no more memory."""
    frames_HWC = [frame.frame_HWC for frame in given.frames]
    for proven in draft.proven:
        with draft.gap_for(f"the soak of {proven.name}"):
            _soaked(given, settings, draft, proven, frames_HWC, progress=progress)


def _soaked(
    given: ProofInput,
    settings: ProofSettings,
    draft: _Draft,
    proven: Proven,
    frames_HWC: Sequence[NDArray[np.uint8]],
    *,
    progress: Progress,
) -> None:
    first = [_digest(proven.raw(frame_HWC)) for frame_HWC in frames_HWC]
    free_bytes = given.device.free_bytes()
    differing = 0
    for index in range(settings.soak_frames):
        place = index % len(frames_HWC)
        differing += _digest(proven.raw(frames_HWC[place])) != first[place]
        if index % 50 == 0 or index + 1 == settings.soak_frames:
            progress(f"soak {proven.name}", index + 1, settings.soak_frames)
    before = draft.memory[proven.name]
    draft.memory[proven.name] = Memory(
        loaded_bytes=before.loaded_bytes,
        warm_bytes=before.warm_bytes,
        soak_bytes=free_bytes - given.device.free_bytes(),
    )
    draft.soak[proven.name] = Soak(frames=settings.soak_frames, differing=differing, graphs=proven.session.cuda_graphs)


def _digest(raw: RawAnswer) -> bytes:
    arrays: tuple[NDArray[np.generic], ...] = (raw.class_probs_L, raw.parts_HW, raw.box_xyxy, raw.health)
    return b"".join(hashlib.blake2b(np.ascontiguousarray(array).data).digest() for array in arrays)


def _proof(given: ProofInput, settings: ProofSettings, draft: _Draft, load_average_start: float | None) -> Proof:
    app_ms, engine_ms = draft.recording.app_ms, draft.recording.within_ms["engine"]
    names = [proven.name for proven in draft.proven]
    peers = [peer.name for peer in given.peers]
    scopes = {
        "app": {name: app_ms[name] for name in (*names, *peers) if name in app_ms},
        "device": {name: app_ms[key] for name in names if (key := DeviceContestant.key(name)) in app_ms},
        "engine": {name: engine_ms[name] for name in peers if name in engine_ms},
    }
    latency = {
        scope: {name: summarise(list(samples.values())) for name, samples in by_name.items()}
        for scope, by_name in scopes.items()
    }
    ratios = {
        name: {
            peer: ratio
            for peer in peers
            if (ratio := paired_ratio(app_ms.get(name, {}), app_ms.get(peer, {}))) is not None
        }
        for name in names
    }
    unproven = list(draft.unproven)
    unproven += [f"the race against {peer}: {reason}" for peer, reason in draft.missing_peers.items()]
    if given.gpu is None:
        unproven.append("everything: this was a rehearsal without a GPU, whose numbers mean nothing")
    return Proof(
        bundle=given.bundle.manifest.name,
        manifest_sha256=given.bundle.manifest_sha256,
        gpu=given.gpu,
        environment=read_environment(threads=settings.threads, load_average_start=load_average_start),
        rehearsal=given.gpu is None,
        parity=tuple(draft.parity),
        latency=latency,
        ratios=ratios,
        agreement=draft.agreement,
        missing_peers=draft.missing_peers,
        memory=draft.memory,
        soak=draft.soak,
        targets=targets_of(
            Findings(latency=latency, ratios=ratios, parity=draft.parity, memory=draft.memory, soak=draft.soak)
        ),
        unproven=tuple(unproven),
        limits=draft.limits,
        unforeseen=tuple(draft.unforeseen),
        partial=draft.partial,
        stopped_by=draft.stopped_by,
    )
