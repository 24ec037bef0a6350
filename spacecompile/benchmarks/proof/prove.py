"""`prove`: everything that the project promises of a GPU, on this one, in one document.

Every variant on every backend of the GPU is compared with PyTorch on the same GPU and on the CPU, raced against the
peers, and run for thousands of frames. Nothing is taken for granted: what could not be shown is listed as unproven.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from spacecompile.benchmarks.agreement import Agreement, answered_from_answer, tolerance_for
from spacecompile.benchmarks.latency.interleaved import LatencySettings, Recording, measure
from spacecompile.benchmarks.latency.summary import paired_ratio, summarise
from spacecompile.benchmarks.peers.guard import compared
from spacecompile.benchmarks.peers.table import PeerContestant, failed
from spacecompile.benchmarks.proof.contestants import DeviceContestant, Proven
from spacecompile.benchmarks.proof.limits import DeviceCeilingSettings, proof_limits
from spacecompile.benchmarks.proof.records import Memory, Proof, ProofLimits, ProvenParity, Soak
from spacecompile.benchmarks.proof.targets import Findings, targets_of
from spacecompile.benchmarks.proof.torch_on_gpu import answers_on_gpu
from spacecompile.benchmarks.step import guarded
from spacecompile.contract import Progress, Tta, Variant, no_progress
from spacecompile.errors import DeviceLostError, MissingPartError, SpacecompileError
from spacecompile.export.parity.frame_set import ParityFrame
from spacecompile.export.parity.reference import ExpectedAnswer, ViewByView, reference_answers
from spacecompile.export.parity.verdict import verdict_on
from spacecompile.machine.environment import load_average, read_environment
from spacecompile.network.checkpoint import LoadedCheckpoint
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.backends.registry import BACKENDS, BackendEntry
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.cuda.device import CudaDevice
from spacecompile.runtime.cuda.driver import GpuFacts

SOAK_FRAMES = 10_000


@dataclass(frozen=True, kw_only=True)
class ProofSettings:
    """How long and with what.

    Attributes:
        latency: Length of the race.
        soak_frames: Number of frames that are answered by each variant on each backend.
        threads: Number of threads of the peers and references on the CPU.
        torch_device: Device of the reference and the peers on the GPU; `cpu` in a rehearsal.
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
        bundle: Bundle to prove.
        checkpoint: Checkpoint that the bundle was built from.
        frames: Frames to compare and to time on, real or rendered and adversarial.
        peers: Peers to race against, open; the caller closes them.
        missing_peers: Why others are not there.
        device: The GPU.
        gpu: Facts of the GPU; None in a rehearsal.
    """

    bundle: Bundle
    checkpoint: LoadedCheckpoint
    frames: tuple[ParityFrame, ...]
    peers: Sequence[PeerContestant]
    missing_peers: Mapping[str, str]
    device: CudaDevice
    gpu: GpuFacts | None


@dataclass(kw_only=True)
class _Run:
    """One proof: its input, and what was shown so far, valid at any moment."""

    given: ProofInput
    settings: ProofSettings
    progress: Progress
    unproven: list[str]
    missing_peers: dict[str, str]
    load_average_start: float | None = field(default_factory=load_average)
    parity: list[ProvenParity] = field(default_factory=list)
    memory: dict[str, Memory] = field(default_factory=dict)
    soak: dict[str, Soak] = field(default_factory=dict)
    limits: ProofLimits | None = None
    agreements: dict[str, Agreement] = field(default_factory=dict)
    recording: Recording = field(default_factory=Recording)
    proven: list[Proven] = field(default_factory=list)
    unforeseen: list[str] = field(default_factory=list)
    partial: bool = False
    stopped_by: str = ""

    @property
    def frames_HWC(self) -> list[NDArray[np.uint8]]:
        return [frame.frame_HWC for frame in self.given.frames]

    def gap_for(self, what: str) -> AbstractContextManager[None]:
        """An error in the block is a gap of the proof, which goes on; after a lost GPU nothing can."""
        return guarded(what, self._note_gap, ends=lambda error: isinstance(error, DeviceLostError))

    def _note_gap(self, what: str, error: SpacecompileError, unforeseen: bool) -> None:
        self.unproven.append(f"{what}: {error}")
        if unforeseen:
            self.unforeseen.append(self.unproven[-1])


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

    Args:
        given: What is proven, against what.
        settings: How long and with what.
        progress: Callback for progress.

    Raises:
        MissingPartError: If no variant can run on the GPU here.
    """
    runs, unproven = runs_on_gpu(given.bundle)
    run = _Run(
        given=given,
        settings=settings,
        progress=progress,
        unproven=unproven,
        missing_peers=dict(given.missing_peers),
    )
    with ExitStack() as stack:
        try:
            for variant, entry in runs:
                with run.gap_for(f"{variant.name}@{entry.name}"):
                    _open(run, variant, entry, stack)
            for tta in dict.fromkeys(proven.variant.tta for proven in run.proven):
                _compare(run, tta)
            with run.gap_for("the race"):
                _race(run)
            for proven in run.proven:
                with run.gap_for(f"the soak of {proven.name}"):
                    _soak(run, proven)
            with run.gap_for("the limits of the GPU"):
                run.limits = proof_limits(
                    *(given.bundle, run.proven, run.recording.app_ms),
                    device=settings.torch_device,
                    settings=settings.ceilings,
                    gap_for=run.gap_for,
                    progress=progress,
                )
        except KeyboardInterrupt:
            run.partial = True
        except DeviceLostError as error:
            run.partial, run.stopped_by = True, str(error)
            run.unproven.append(f"everything after the GPU was lost: {error}")
    return _proof(run)


def _open(run: _Run, variant: Variant, entry: BackendEntry, stack: ExitStack) -> None:
    """Load a session and note what memory it takes, then what the first frames take."""
    device = run.given.device
    free_bytes = device.free_bytes()
    proven = Proven.opened(run.given.bundle, variant, entry)
    stack.callback(proven.close)
    loaded_bytes = device.free_bytes()
    for _ in range(3):
        proven.session(run.frames_HWC[0])
    warm_bytes = device.free_bytes()
    run.memory[proven.name] = Memory(
        loaded_bytes=free_bytes - loaded_bytes, warm_bytes=loaded_bytes - warm_bytes, soak_bytes=0
    )
    run.proven.append(proven)


def _compare(run: _Run, tta: Tta) -> None:
    """Judge every session with one augmentation against PyTorch on the CPU and on the GPU."""
    given = run.given
    references: dict[str, Sequence[ExpectedAnswer]] = {}
    with run.gap_for(f"parity, tta {tta}, since PyTorch has no answers on the CPU"):
        references["pytorch-cpu"] = reference_answers(
            *(ViewByView(given.checkpoint.network), given.checkpoint.spec, tta, given.frames),
            workers=run.settings.threads,
            progress=run.progress,
        )
    if not references:
        return
    on_cpu = references["pytorch-cpu"]
    with run.gap_for(f"parity with PyTorch on the GPU, tta {tta}"):
        references["pytorch-gpu"] = answers_on_gpu(given.checkpoint, tta, on_cpu, device=run.settings.torch_device)
    for proven in [it for it in run.proven if it.variant.tta == tta]:
        with run.gap_for(f"parity of {proven.name}"):
            raws = []
            for done, case in enumerate(on_cpu, start=1):
                raws.append(proven.raw(case.frame.frame_HWC))
                run.progress(f"parity {proven.name}", done, len(on_cpu))
            run.parity += [
                _verdict(given.bundle, proven, expected, raws, against) for against, expected in references.items()
            ]


def _verdict(
    bundle: Bundle, proven: Proven, expected: Sequence[ExpectedAnswer], raws: Sequence[RawAnswer], against: str
) -> ProvenParity:
    verdict = verdict_on(
        proven.variant.name,
        backend=f"{proven.session.choice.backend} {proven.session.choice.backend_version}",
        sha256=hashlib.sha256(bundle.read(proven.variant.path)).hexdigest(),
        expected=expected,
        given=raws,
        tolerance=proven.variant.tolerance,
    )
    return ProvenParity(against=against, verdict=verdict)


def _race(run: _Run) -> None:
    """Every session twice, from the host and from the GPU, and the peers, in the same rounds."""
    if not run.proven:
        return
    frames_HWC = run.frames_HWC
    reference = next((it for it in run.proven if it.variant.tta == "none"), run.proven[0])
    expected = [answered_from_answer(reference.run(frame_HWC)) for frame_HWC in frames_HWC]
    peers: list[PeerContestant] = []
    for comparison in compared(
        run.given.peers,
        frames_HWC,
        lambda _: expected,
        tolerance_for(run.given.checkpoint.spec),
        progress=run.progress,
    ):
        peers, run.agreements = comparison.able, comparison.agreements
        run.missing_peers |= comparison.missing
    with ExitStack() as stack:
        on_device = [DeviceContestant(proven, run.given.device, frames_HWC) for proven in run.proven]
        for contestant in on_device:
            stack.callback(contestant.close)
        try:
            measure(
                [*run.proven, *on_device, *peers],
                frames_HWC,
                run.settings.latency,
                run.recording,
                expendable=[peer.name for peer in peers],
                progress=run.progress,
            )
        finally:
            run.missing_peers |= {name: failed(error) for name, error in run.recording.dropped.items()}


def _soak(run: _Run, proven: Proven) -> None:
    """Answer the frames over and over: the same answers, bit for bit, and no more memory."""
    device, wanted, frames_HWC = run.given.device, run.settings.soak_frames, run.frames_HWC
    first = [_digest(proven.raw(frame_HWC)) for frame_HWC in frames_HWC]
    free_bytes = device.free_bytes()
    differing = 0
    for index in range(wanted):
        place = index % len(frames_HWC)
        differing += _digest(proven.raw(frames_HWC[place])) != first[place]
        if index % 50 == 0 or index + 1 == wanted:
            run.progress(f"soak {proven.name}", index + 1, wanted)
    run.memory[proven.name] = replace(run.memory[proven.name], soak_bytes=free_bytes - device.free_bytes())
    run.soak[proven.name] = Soak(frames=wanted, differing=differing, graphs=proven.session.cuda_graphs)


def _digest(raw: RawAnswer) -> bytes:
    arrays: tuple[NDArray[np.generic], ...] = (raw.class_probs_L, raw.parts_HW, raw.box_xyxy, raw.health)
    return b"".join(hashlib.blake2b(np.ascontiguousarray(array).data).digest() for array in arrays)


def _proof(run: _Run) -> Proof:
    given = run.given
    app_ms, engine_ms = run.recording.app_ms, run.recording.within_ms["engine"]
    names = [proven.name for proven in run.proven]
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
    unproven = list(run.unproven)
    unproven += [f"the race against {peer}: {reason}" for peer, reason in run.missing_peers.items()]
    if given.gpu is None:
        unproven.append("everything: this was a rehearsal without a GPU, whose numbers mean nothing")
    return Proof(
        bundle=given.bundle.manifest.name,
        manifest_sha256=given.bundle.manifest_sha256,
        gpu=given.gpu,
        environment=read_environment(threads=run.settings.threads, load_average_start=run.load_average_start),
        rehearsal=given.gpu is None,
        parity=tuple(run.parity),
        latency=latency,
        ratios=ratios,
        agreement=run.agreements,
        missing_peers=run.missing_peers,
        memory=run.memory,
        soak=run.soak,
        targets=targets_of(
            Findings(latency=latency, ratios=ratios, parity=run.parity, memory=run.memory, soak=run.soak)
        ),
        unproven=tuple(unproven),
        limits=run.limits,
        unforeseen=tuple(run.unforeseen),
        partial=run.partial,
        stopped_by=run.stopped_by,
    )
