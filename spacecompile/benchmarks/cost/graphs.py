"""What the shipped graphs cost, counted in the ONNX files themselves. Needs the `onnx` package, no checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from spacecompile.benchmarks.cost.records import GraphCost
from spacecompile.benchmarks.latency.variants import no_onnx
from spacecompile.contract import Precision, Progress, Tta, Variant, no_progress
from spacecompile.export.onnx_facts.facts import GraphFacts, graph_facts
from spacecompile.metrics import FORWARD_PASSES
from spacecompile.runtime.bundle import Bundle

_ITEM_BYTES = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2}


def graph_costs(
    bundle: Bundle, variants: Sequence[Variant], *, progress: Progress = no_progress
) -> dict[str, GraphCost]:
    """The cost of every variant's ONNX file, by variant; one whose file is none is left out.

    Args:
        bundle: Verified.
        variants: Variants of the bundle; two may share a file.
        progress: Told the variants done.

    Raises:
        IntegrityError: If a file is no valid ONNX file.
    """
    costs: dict[str, GraphCost] = {}
    countable = [variant for variant in variants if no_onnx(variant) is None]
    for done, variant in enumerate(countable, start=1):
        model_bytes = bundle.read(variant.path)
        costs[variant.name] = cost_from_facts(
            graph_facts(model_bytes), variant.tta, len(model_bytes), precision=variant.precision
        )
        progress("count graphs", done, len(countable))
    return costs


def cost_from_facts(facts: GraphFacts, tta: Tta, file_bytes: int, *, precision: Precision) -> GraphCost:
    """The cost of one graph.

    Args:
        facts: Facts of the variant's file.
        tta: Inside the graph.
        file_bytes: Size of the variant's file in bytes.
        precision: Precision of the variant.
    """
    by_op: Counter[str] = Counter()
    by_type: Counter[str] = Counter()
    for node in facts.mac_nodes:
        by_op[node.op] += node.macs
        by_type[node.type] += node.macs
    return GraphCost(
        params=sum(num_bytes // _item_bytes(name) for name, num_bytes in facts.weight_bytes.items()),
        macs=facts.macs,
        views=FORWARD_PASSES[tta],
        macs_by_op=dict(by_op.most_common()),
        macs_by_type=dict(by_type.most_common()),
        file_bytes=file_bytes,
        weight_bytes=sum(facts.weight_bytes.values()),
        uncounted=len(facts.uncounted),
        precision=precision,
    )


def _item_bytes(type_name: str) -> int:
    return _ITEM_BYTES.get(type_name) or np.dtype(type_name).itemsize
