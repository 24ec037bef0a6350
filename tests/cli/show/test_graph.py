from __future__ import annotations

import pytest

from spacecompile.cli.show.graph import graph_lines
from spacecompile.export.onnx_facts.file_facts import GraphFacts, Island, MacNode, TensorFacts


def half_facts(num_islands: int) -> GraphFacts:
    return GraphFacts(
        inputs=(TensorFacts(name="frame", type="uint8", shape=(None, 64, 3)),),
        outputs=(),
        opset=20,
        ops={"MatMul": 2, "Softmax": 1},
        weight_bytes={"fp16": 2_000_000, "fp32": 500_000},
        weight_shares={"fp16": 0.8889, "fp32": 0.1111},
        macs=2_000_000_000,
        mac_shares={"fp16": 0.75, "fp32": 0.25},
        mac_nodes=tuple(
            MacNode(name=f"node {kind}", op="MatMul", type=kind, macs=1) for kind in ("fp16", "fp32", "fp16")
        ),
        islands=tuple(
            Island(first=f"island-{index}", ops={"Softmax": 1}, macs=500_000_000) for index in range(num_islands)
        ),
        uncounted=("odd",),
    )


@pytest.mark.parametrize(
    "line",
    [
        "graph fp16: 3 nodes, opset 20, 2.0000 GMAC with all views",
        "input frame uint8 [?, 64, 3]",
        "weights fp16 88.9% (2.00 MB), fp32 11.1% (0.50 MB)",
        "multiply-adds fp16 75.0%, fp32 25.0%",
        "nodes that multiply MatMul: fp16 2, fp32 1",
        "float32 island at island-0: Softmax 1, 25.00% of the multiply-adds",
        "not counted, its shape is unknown: odd",
    ],
)
def test_a_half_file_shows_its_precisions(line: str) -> None:
    lines = [" ".join(shown.split()) for shown in graph_lines("fp16", half_facts(num_islands=1))]
    assert line in lines


def test_of_many_islands_the_rest_is_counted() -> None:
    lines = graph_lines("fp16", half_facts(num_islands=40))
    shown = [line for line in lines if "island at" in line]
    assert f"and {40 - len(shown)} more float32 islands" in "".join(lines)
