"""What `prove` writes: one document per machine."""

from __future__ import annotations

from spacecompile.benchmarks.agreement import Agreement
from spacecompile.benchmarks.latency.records import Latency, Ratio
from spacecompile.benchmarks.limits.records import Bandwidth, Ceiling, VariantLimit
from spacecompile.export.parity.verdict import VariantParity
from spacecompile.machine.records import Environment
from spacecompile.record import Record
from spacecompile.runtime.cuda.driver import GpuFacts


class ProvenParity(Record):
    """One variant on one backend against one reference.

    Attributes:
        against: `pytorch-cpu` or `pytorch-gpu`, each in float32, before any rewrite.
        verdict: Verdict on the file, by the variant's own tolerance.
    """

    against: str
    verdict: VariantParity


class Memory(Record):
    """Memory of the GPU that a session took, by the driver's count of free bytes; other processes count too.

    Attributes:
        loaded_bytes: By loading.
        warm_bytes: By the first frames, beside that.
        soak_bytes: By the soak, beside that: above 0 something was allocated after warm-up.
    """

    loaded_bytes: int
    warm_bytes: int
    soak_bytes: int


class Soak(Record):
    """Many frames in a row.

    Attributes:
        frames: Answered.
        differing: Number of frames whose answer is not, bit for bit, that of the same frame the first time.
        graphs: How the runs were queued, in words.
    """

    frames: int
    differing: int
    graphs: str


class ProofLimits(Record):
    """What the GPU allows, and how near each latency comes to it; see `limits.records`.

    Attributes:
        ceilings: Ceilings of PyTorch's matrix product, without TF32.
        bandwidths: Bandwidths of PyTorch's copies on the GPU, by rising working set.
        scopes: By scope (`app`, `device`), then by `variant@backend`. What is measured there is the latency of that
            scope; the limit is the GPU's alone, and holds nothing of what the host and the way from it take.
    """

    ceilings: tuple[Ceiling, ...]
    bandwidths: tuple[Bandwidth, ...]
    scopes: dict[str, dict[str, VariantLimit]]


class Target(Record):
    """One promise of the project and what was measured.

    Attributes:
        promise: In words.
        measured: The number; None where it could not be measured.
        held: Whether it is kept; None where it could not be measured.
        missing: Why not measured.
    """

    promise: str
    measured: float | None
    held: bool | None
    missing: str = ""


class Proof(Record):
    """The whole document.

    Attributes:
        bundle, manifest_sha256: What was proven.
        gpu: On what; None for a rehearsal.
        environment: And with what.
        rehearsal: Whether no GPU was used: the numbers then mean nothing but that the command works.
        parity: Every variant on every backend of the GPU, against both references.
        latency: By scope (`app`: host to answer; `device`: frame on the GPU to answer on it; `engine`: of the peers,
            the engine alone), then by contestant.
        ratios: Ratios of each `variant@backend` to each peer, in scope `app`.
        agreement: Agreement of each peer with the first variant, on the same frames.
        missing_peers: Why a peer did not run.
        memory, soak: By `variant@backend`.
        limits: How near the latencies come to what the GPU allows; None where that was not measured.
        targets: See there.
        unproven: What this document does not prove, in sentences.
        unforeseen: Those of them that are errors of this program or of the machine.
        partial: Whether it was stopped early.
        stopped_by: The error of the GPU that stopped it; empty after an interrupt.
    """

    bundle: str
    manifest_sha256: str
    gpu: GpuFacts | None
    environment: Environment
    rehearsal: bool
    parity: tuple[ProvenParity, ...]
    latency: dict[str, dict[str, Latency]]
    ratios: dict[str, dict[str, Ratio]]
    agreement: dict[str, Agreement]
    missing_peers: dict[str, str]
    memory: dict[str, Memory]
    soak: dict[str, Soak]
    targets: tuple[Target, ...]
    unproven: tuple[str, ...]
    limits: ProofLimits | None = None
    unforeseen: tuple[str, ...] = ()
    partial: bool = False
    stopped_by: str = ""
