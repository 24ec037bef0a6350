"""Records of what a network costs."""

from __future__ import annotations

import msgspec

from spacecompile.contract import Cost, PassReport
from spacecompile.record import Record


class BudgetLine(Record):
    """One limit.

    Attributes:
        key: In `budgets.toml`.
        label: For people.
        value, limit, margin: In `unit`; the margin is what is left.
        unit: Unit of the numbers.
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
        views: Number of views of test-time augmentation: how often the network runs in it.
        macs_by_op: Per operator.
        macs_by_type: Per type that they are done in.
        file_bytes, weight_bytes: Sizes of the file and of the weights in it, in bytes.
        uncounted: Nodes that multiply and add but whose shapes are unknown.
        precision: Precision of the variant; a file in fp32 may be run in bf16. Empty in older files.
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
        counter: Counter whose number the limit on multiply-adds is judged by.
        cost_source, cost: Before and after.
        rewrites: What each pass changed.
        counters: What counted each number, by name of the number.
        unjudged: Why a limit could not be judged, by its key.
        stages: Cost of the network's stages; empty without the checkpoint.
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
