"""What a results file holds. A section that was not measured is absent, never guessed."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from spacecompile.benchmarks.limit_records import LimitReport
from spacecompile.benchmarks.records_timing import (
    Agreement,
    ColdStart,
    Energy,
    Latency,
    Paced,
    Peer,
    ProcessStart,
    Ratio,
    Throughput,
)
from spacecompile.benchmarks.scaling_records import ScalingReport
from spacecompile.contract import Cost, PassReport
from spacecompile.metrics import Scores
from spacecompile.record import Record

__all__ = [
    "Agreement",
    "BenchResult",
    "BudgetLine",
    "BudgetReport",
    "ColdStart",
    "Configuration",
    "Energy",
    "Environment",
    "Failure",
    "GraphCost",
    "Latency",
    "MachineFacts",
    "Paced",
    "Peer",
    "ProcessStart",
    "Ratio",
    "ScoreReport",
    "StageCost",
    "Subject",
    "Throughput",
    "VariantEngine",
    "read_result",
]


class MachineFacts(Record):
    """What the machine did from the start of the run to its end. None is what it does not tell; nothing is guessed.

    Attributes:
        frequency_start_mhz, frequency_end_mhz: Mean of the cores that tell.
        temperature_start_c, temperature_end_c: Of the hottest sensor of the processor.
        throttle_events: How often the processor slowed down for its temperature.
        stolen_share: Share of the processor time that a hypervisor gave to others, 0 to 1.
        others_share: Share of the processor time that other processes took, 0 to 1.
        accelerators: Name and driver of every GPU that the driver's library lists.
    """

    frequency_start_mhz: float | None = None
    frequency_end_mhz: float | None = None
    temperature_start_c: float | None = None
    temperature_end_c: float | None = None
    throttle_events: int | None = None
    stolen_share: float | None = None
    others_share: float | None = None
    accelerators: tuple[str, ...] = ()


class Environment(Record):
    """Where and how the numbers were measured.

    Attributes:
        cpu: Model name.
        cores: Logical ones that this process may use.
        threads: That every contestant used.
        openmp_wait_policy: `OMP_WAIT_POLICY`, which PyTorch's idle threads follow; None for the library's default.
        governor: Of the first core's frequency; None where the kernel does not tell.
        load_average_start, load_average_end: Runnable processes over the last minute; at the end this one too.
        memory_bytes: Of the machine; None where it does not tell.
        platform: Operating system and machine.
        versions: Of every package that takes part.
        commit: Of the source tree; None outside a clone.
        modified: Whether the source tree differs from that commit.
        machine: What the machine did during the run; None in files of before it was watched.
    """

    cpu: str
    cores: int
    threads: int
    openmp_wait_policy: str | None
    governor: str | None
    load_average_start: float | None
    load_average_end: float | None
    memory_bytes: int | None
    platform: str
    versions: dict[str, str]
    commit: str | None
    modified: bool | None
    machine: MachineFacts | None = None


class Subject(Record):
    """The bundle that was measured.

    Attributes:
        bundle: Its name.
        source_sha256: Of the checkpoint that it was built from.
        architecture, encoder: Of the network.
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


class VariantEngine(Record):
    """What ran one variant.

    Attributes:
        name: Of the backend.
        version: Of its engine.
        reason: Why this one.
    """

    name: str
    version: str
    reason: str


class Configuration(Record):
    """How it was measured, enough to measure it again.

    Attributes:
        backend: Names and versions of the engines that ran the variants, each once.
        engines: By variant; empty in files of before variants could run on different ones.
        spinning: Whether the variants' idle threads waited busily.
        frames, frames_source: Number and origin of the frames of the latency run.
        rounds, rounds_min, duration_s, warmup_rounds, warmup_s, settle_max_ms, priming_calls: Of the latency run; see
            `latency.LatencySettings`.
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


class BudgetLine(Record):
    """One limit.

    Attributes:
        key: In `budgets.toml`.
        label: For people.
        value, limit, margin: In `unit`; the margin is what is left.
        unit: Of the numbers.
        passed: Whether the value is at most the limit.
    """

    key: str
    label: str
    value: float
    limit: float
    margin: float
    unit: str
    passed: bool


class StageCost(Record):
    """Cost of one stage of the network, before and after the rewrites.

    Attributes:
        stage: `encoder`, `decoder`, `segmentation_head`, `classification_head`, `box_head` where the network has one,
            or `mask_upsampling`.
        before, after: In the conventions of `contract.Cost`.
    """

    stage: str
    before: Cost
    after: Cost


class GraphCost(Record):
    """Cost of one shipped graph, counted in the ONNX file itself: no checkpoint is needed and nothing fused is missed.

    Attributes:
        params: Elements of its weights.
        macs: Multiply-adds of one frame, one counted once, all views of test-time augmentation included.
        views: Of test-time augmentation: how often the network runs in it.
        macs_by_op: Per operator.
        macs_by_type: Per type that they are done in.
        file_bytes, weight_bytes: Of the file, and of the weights in it.
        uncounted: Nodes that multiply and add but whose shapes are unknown.
        precision: Of the variant; a file in fp32 may be run in bf16. Empty in older files.
    """

    params: int
    macs: int
    views: int
    macs_by_op: dict[str, int]
    macs_by_type: dict[str, int]
    file_bytes: int
    weight_bytes: int
    uncounted: int = 0
    precision: str = ""


class BudgetReport(Record):
    """The limits, and the cost of the network in both conventions, before and after the rewrites.

    Attributes:
        passed: Whether every line is, and every limit could be judged.
        lines: One per limit.
        counter: That the limit on multiply-adds is judged by.
        cost_source, cost: Before and after.
        rewrites: What each pass changed.
        counters: What counted each number, by name of the number.
        unjudged: Why a limit could not be judged, by its key.
        stages: Of the network; empty without the checkpoint.
        graphs: By variant; empty without the `onnx` package.
        notes: Why `stages` or `graphs` are empty or lack a variant, and what adds them, by that name.
    """

    passed: bool
    lines: tuple[BudgetLine, ...]
    counter: str
    cost_source: Cost
    cost: Cost
    rewrites: tuple[PassReport, ...]
    counters: dict[str, str] = msgspec.field(default_factory=dict)
    unjudged: dict[str, str] = msgspec.field(default_factory=dict)
    stages: tuple[StageCost, ...] = ()
    graphs: dict[str, GraphCost] = msgspec.field(default_factory=dict)
    notes: dict[str, str] = msgspec.field(default_factory=dict)


class ScoreReport(Record):
    """The benchmark's scores of the shipped files.

    Attributes:
        data: Where the labelled frames came from.
        split: Of that data set.
        variants: Scores by variant; test-time augmentation is not charged, as the benchmark has it.
        s_final_charged: `s_final` by variant with every view of test-time augmentation charged.
        torch: PyTorch's own scores of the same checkpoint on the same frames, neither rewritten nor exported, by
            augmentation (`none`, `d4`, `d4-median`); empty where it was not asked.
        drops: `s_final` of PyTorch with the same augmentation and the cost of the rewritten network, less the
            variant's; negative where the variant is better.
        torch_note: Why `torch` is empty, and what adds it; empty where it is not.
    """

    data: str
    split: str
    variants: dict[str, Scores]
    s_final_charged: dict[str, float] = msgspec.field(default_factory=dict)
    torch: dict[str, Scores] = msgspec.field(default_factory=dict)
    drops: dict[str, float] = msgspec.field(default_factory=dict)
    torch_note: str = ""


class Failure(Record):
    """Why the command ended with an exit code other than 0; the same for every command's document."""

    kind: str
    message: str
    exit_code: int


class BenchResult(Record, kw_only=True):
    """A whole results file.

    Attributes:
        format: Of this record.
        version: Of spacecompile.
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
