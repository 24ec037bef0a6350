"""What a results file holds. A section that was not measured is absent, never guessed."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from spacecompile.benchmarks.cost.records import BudgetReport
from spacecompile.benchmarks.latency.records import (
    ColdStart,
    Energy,
    Latency,
    Paced,
    ProcessStart,
    Throughput,
    VariantEngine,
)
from spacecompile.benchmarks.limits.records import LimitReport
from spacecompile.benchmarks.limits.scaling_records import ScalingReport
from spacecompile.benchmarks.peers.records import Peer
from spacecompile.benchmarks.score.records import ScoreReport
from spacecompile.machine.records import Environment
from spacecompile.record import Record


class Subject(Record):
    """The bundle that was measured.

    Attributes:
        bundle: Name of the bundle.
        source_sha256: SHA-256 of the checkpoint that it was built from.
        architecture, encoder: Architecture and encoder of the network.
        input_size_px, frame_size_px: (height, width).
        variant_bytes: Size of each variant's graph file.
        checkpoint_training: What the checkpoint says about its own training and scores; not measured here.
    """

    bundle: str
    source_sha256: str
    architecture: str
    encoder: str
    input_size_px: tuple[int, int]
    frame_size_px: tuple[int, int]
    variant_bytes: dict[str, int]
    checkpoint_training: dict[str, Any]


class Configuration(Record):
    """How it was measured, enough to measure it again.

    Attributes:
        backend: Names and versions of the engines that ran the variants, each once.
        engines: By variant; empty in files of before variants could run on different ones.
        spinning: Whether the variants' idle threads waited busily.
        frames, frames_source: Number and origin of the frames of the latency run.
        rounds, rounds_min, duration_s, warmup_rounds, warmup_s, settle_max_ms, priming_calls: Length of the latency
            run; see `latency.LatencySettings`.
        augmented_every: Variants with test-time augmentation take part in every n-th round only.
        block_calls: Recorded calls of a contestant in a row; see `latency.LatencySettings`.
        scopes: What each scope of `latency` is on this machine.
        percentile_method: numpy's name of it.
        garbage_collector: How it was kept out of the samples.
    """

    backend: str
    spinning: bool
    frames: int
    frames_source: str
    rounds: int
    rounds_min: int
    duration_s: float
    warmup_rounds: int
    warmup_s: float
    settle_max_ms: float
    priming_calls: int
    augmented_every: int
    percentile_method: str = "higher"
    garbage_collector: str = "off during a call, run between rounds"
    engines: dict[str, VariantEngine] = msgspec.field(default_factory=dict)
    block_calls: int = 1
    scopes: dict[str, str] = msgspec.field(default_factory=dict)


class Failure(Record):
    """Why the command ended with an exit code other than 0; the same for every command's document."""

    kind: str
    message: str
    exit_code: int


class BenchResult(Record, kw_only=True):
    """A whole results file.

    Attributes:
        format: Version of this record's format.
        version: Version of spacecompile.
        created: UTC, ISO 8601.
        partial: Whether the run was interrupted or a step of it failed; what is there is valid, the rest is absent.
        subject, configuration, environment: The circumstances.
        budget: Always there: it needs no measurement.
        score: Absent without labelled frames.
        score_note: Why it is absent.
        latency: By scope, then by contestant. `app`: frame in memory to answer; `file`: image file to answer;
            `device`: the graph with its copies; `engine`: the graph alone. What the last two are on this
            machine is in `configuration.scopes`.
        cold_start: By variant, in this process.
        process_start: By variant, in processes of their own.
        paced: By contestant, at the rate that was asked for.
        throughput: By variant.
        energy: By variant; absent where the machine has no counter.
        energy_note: Why it is absent, or why some variants are not in it.
        missing_backends: What keeps a backend away that holds a certificate for a variant, and what adds it.
        skipped: Why a variant that was asked for can't run here, and what to do, by variant.
        peers: By name.
        roofline: Limits of the machine and the share of them that each variant reaches.
        roofline_note: Why it is absent.
        scaling: Cost against sizes, batch, threads and test-time augmentation; absent without `--scaling`.
        failed_steps: Why a step of the run failed, by its name; absent when none did.
        parity: `reports/parity.json` of the bundle; absent when the bundle holds none.
        warnings: What the reader must know before using the numbers.
        error: An exceeded budget, a failed step or an interrupt; absent when the command succeeded.
    """

    format: Literal["spacecompile-bench-1"] = "spacecompile-bench-1"
    version: str
    created: str
    partial: bool
    subject: Subject
    configuration: Configuration | UnsetType = UNSET
    environment: Environment
    budget: BudgetReport
    score: ScoreReport | UnsetType = UNSET
    score_note: str | UnsetType = UNSET
    latency: dict[str, dict[str, Latency]] | UnsetType = UNSET
    cold_start: dict[str, ColdStart] | UnsetType = UNSET
    process_start: dict[str, ProcessStart] | UnsetType = UNSET
    paced: dict[str, Paced] | UnsetType = UNSET
    throughput: dict[str, tuple[Throughput, ...]] | UnsetType = UNSET
    energy: dict[str, Energy] | UnsetType = UNSET
    energy_note: str | UnsetType = UNSET
    missing_backends: dict[str, str] | UnsetType = UNSET
    skipped: dict[str, str] | UnsetType = UNSET
    peers: dict[str, Peer] | UnsetType = UNSET
    roofline: LimitReport | UnsetType = UNSET
    roofline_note: str | UnsetType = UNSET
    scaling: ScalingReport | UnsetType = UNSET
    failed_steps: dict[str, str] | UnsetType = UNSET
    parity: Any = UNSET
    warnings: tuple[str, ...] = ()
    error: Failure | UnsetType = UNSET

    @property
    def peer_names(self) -> frozenset[str]:
        """Contestants that are no variants of the bundle, those that took no part too."""
        return frozenset() if isinstance(self.peers, UnsetType) else frozenset(self.peers)


def read_result(content: bytes) -> BenchResult:
    """Read a results file strictly.

    Raises:
        msgspec.ValidationError: If a field is missing, unknown or of the wrong type.
    """
    return msgspec.json.decode(content, type=BenchResult)
