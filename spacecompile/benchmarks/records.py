"""What a results file holds. A section that was not measured is absent, never guessed."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from spacecompile.benchmarks.limit_records import LimitReport
from spacecompile.benchmarks.scaling_records import ScalingReport
from spacecompile.contract import Cost, PassReport, Record
from spacecompile.metrics import Scores


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


class BudgetReport(Record):
    """The limits, and the cost of the network in both conventions, before and after the rewrites.

    Attributes:
        passed: Whether every line is.
        lines: One per limit.
        counter: That the limit on multiply-adds is judged by.
        cost_source, cost: Before and after.
        rewrites: What each pass changed.
    """

    passed: bool
    lines: tuple[BudgetLine, ...]
    counter: str
    cost_source: Cost
    cost: Cost
    rewrites: tuple[PassReport, ...]


class ScoreReport(Record):
    """The benchmark's scores of the shipped files.

    Attributes:
        data: Where the labelled frames came from.
        split: Of that data set.
        variants: Scores by variant.
    """

    data: str
    split: str
    variants: dict[str, Scores]


class Latency(Record):
    """Samples of one contestant in one scope, and what follows from them.

    Attributes:
        samples: Their number.
        p50_ms, p90_ms, p99_ms: None below the sample floor of that percentile.
        max_ms, min_ms, mean_ms: Over every sample; none is left out.
        variation: Standard deviation over mean.
        further_ms: Other percentiles that were asked for.
        missing_samples: How many more each percentile that is None needs.
        samples_ms: In the order in which they were measured.
    """

    samples: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float
    min_ms: float
    mean_ms: float
    variation: float
    further_ms: dict[str, float | None]
    missing_samples: dict[str, int]
    samples_ms: tuple[float, ...]


class ColdStart(Record):
    """One start of a variant: files in the page cache, modules imported, and no compiled model in the engine's cache.

    Attributes:
        load_ms: From `load` being called until it returns: hashing, parsing, optimising.
        first_answer_ms: From `load` being called until the first answer.
    """

    load_ms: float
    first_answer_ms: float


class Ratio(Record):
    """A variant's time over a peer's on the same frame in the same round; below 1 the variant is faster.

    Attributes:
        ratio: Median over the rounds.
        spread: First and third quartile.
        rounds: In which both took part.
    """

    ratio: float
    spread: tuple[float, float]
    rounds: int


class Agreement(Record):
    """How far a peer's answers are from a variant's, on the very frames of the latency run.

    Attributes:
        frames: Compared.
        class_agreement: Share with the same top class.
        class_probs_max: Largest absolute difference of a class probability.
        parts_iou_mean, parts_iou_min: Over frames and parts; two empty masks have IoU 1.
        parts_near_mean: Mean share of set pixels that have one of the other answer's within `near_px` frame pixels.
        box_px_median, box_px_max: Largest edge difference per frame, in frame pixels.
        same: Whether they are close enough to be the same task; see `agreement.AgreementTolerance`.
    """

    frames: int
    class_agreement: float
    class_probs_max: float
    parts_iou_mean: float
    parts_iou_min: float
    near_px: int
    parts_near_mean: float
    box_px_median: float
    box_px_max: float
    same: bool


class Peer(Record):
    """The same network as a user runs it without spacecompile.

    Attributes:
        label: What it does, in one line.
        ratios: By variant.
        agreement: With the first variant without test-time augmentation; absent when the peer did not run.
        missing: Why it did not run and what adds it; None when it ran.
    """

    label: str
    ratios: dict[str, Ratio]
    agreement: Agreement | UnsetType = UNSET
    missing: str | None = None


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
        partial: Whether the run was interrupted; what is there is valid, the rest is absent.
        subject, configuration, environment: The circumstances.
        budget: Always there: it needs no measurement.
        score: Absent without labelled frames.
        score_note: Why it is absent.
        latency: By scope, then by contestant. `app`: frame in memory to answer; `engine`: the bare engine call in it.
        cold_start: By variant.
        skipped: Why a variant that was asked for can't run here, and what to do, by variant.
        peers: By name.
        roofline: Limits of the machine and the share of them that each variant reaches.
        roofline_note: Why it is absent.
        scaling: Cost against sizes, batch, threads and test-time augmentation; absent without `--scaling`.
        parity: `reports/parity.json` of the bundle; absent when the bundle holds none.
        warnings: What the reader must know before using the numbers.
        error: An exceeded budget or an interrupt; absent when the command succeeded.
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
    skipped: dict[str, str] | UnsetType = UNSET
    peers: dict[str, Peer] | UnsetType = UNSET
    roofline: LimitReport | UnsetType = UNSET
    roofline_note: str | UnsetType = UNSET
    scaling: ScalingReport | UnsetType = UNSET
    parity: Any = UNSET
    warnings: tuple[str, ...] = ()
    error: Failure | UnsetType = UNSET


def read_result(content: bytes) -> BenchResult:
    """Read a results file strictly.

    Raises:
        msgspec.ValidationError: If a field is missing, unknown or of the wrong type.
    """
    return msgspec.json.decode(content, type=BenchResult)
