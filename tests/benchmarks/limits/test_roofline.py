from __future__ import annotations

import pytest

from spacecompile.benchmarks.limits.records import WHERE, Bandwidth, Ceiling
from spacecompile.benchmarks.limits.roofline import Machine, machine_from, variant_limit, variant_profile
from spacecompile.export.onnx_facts.traffic import GraphTraffic, NodeWork
from spacecompile.runtime.backends.raw import LayerTime

MEBIBYTE = 1 << 20


def a_machine() -> Machine:
    """1e9 multiply-adds take 10 ms in fp32 and 1 ms in bf16; 1e6 bytes take 0.01 ms from cache, 0.1 ms from memory."""
    return Machine(
        gmacs_per_s={"fp32": 100.0, "bf16": 1000.0},
        bandwidths=(
            Bandwidth(working_set_bytes=MEBIBYTE, gb_per_s=100.0),
            Bandwidth(working_set_bytes=64 * MEBIBYTE, gb_per_s=10.0),
        ),
    )


def a_graph(*, frame_bytes: int = 1_000_000) -> GraphTraffic:
    """frame -> multiply (1e9 multiply-adds, a weight of 1e6 bytes) -> activate -> answer."""
    nodes = (
        NodeWork(name="multiply", op="MatMul", macs=10**9, type="fp32", reads=("frame", "weight"), writes=("product",)),
        NodeWork(name="activate", op="Gelu", macs=0, type="", reads=("product",), writes=("answer",)),
    )
    sizes = {"frame": frame_bytes, "weight": 1_000_000, "product": 400_000, "answer": 400_000}
    return GraphTraffic(
        nodes={node.name: node for node in nodes},
        tensor_bytes=sizes,
        boundary=frozenset({"frame", "weight", "answer"}),
    )


def layer(name: str, ms: float, *nodes: str, precision: str = "") -> LayerTime:
    return LayerTime(name=name, nodes=nodes, op="op", kernel="", precision=precision, ms=ms)


def test_the_best_engine_of_a_precision_is_its_ceiling() -> None:
    ceilings = [
        Ceiling(backend=backend, precision=precision, gmacs_per_s=rate, runs=5)
        for backend, precision, rate in (("a", "fp32", 30.0), ("b", "fp32", 40.0), ("b", "bf16", 300.0))
    ]
    assert machine_from(ceilings, ()).gmacs_per_s == {"fp32": 40.0, "bf16": 300.0}


@pytest.mark.parametrize(
    ("precision", "frame_bytes", "limit_ms", "bound"),
    [
        ("fp32", 1_000_000, 10.0, "compute"),
        ("bf16", 1_000_000, 1.0, "compute"),
        ("bf16", 98_600_000, 10.0, "memory"),
    ],
    ids=["multiply-adds", "in fewer bits", "a frame too large"],
)
def test_a_variant_is_held_against_the_slower_of_its_two_limits(
    precision: str, frame_bytes: int, limit_ms: float, bound: str
) -> None:
    graph = a_graph(frame_bytes=frame_bytes)
    limit = variant_limit("engine", graph, a_machine(), [20.0, 19.0, 40.0], precision=precision)
    assert limit.limit_ms == pytest.approx(limit_ms)
    assert limit.bound == bound
    assert limit.measured_ms == 20.0
    assert limit.share == pytest.approx(limit_ms / 20)
    assert limit.macs == {precision: 10**9}


def test_every_millisecond_of_a_profiled_run_is_in_one_part() -> None:
    run = (layer("m", 12.0, "multiply"), layer("a", 3.0, "activate"), layer("reorder", 1.5))
    profile = variant_profile("engine", a_graph(), a_machine(), [run, run], walls_ms=[17.0, 17.0], precision="fp32")
    assert set(profile.where_ms) == set(WHERE)
    assert profile.where_ms == pytest.approx(
        {
            "multiply_limit": 10.0,
            "multiply_above": 2.0,
            "other_limit": 0.008,  # 800,000 bytes from the cache
            "other_above": 2.992,
            "unknown": 1.5,
            "between": 0.5,
        }
    )
    assert profile.profiled_ms == pytest.approx(17.0)
    assert profile.macs_matched == 1.0
    assert [found.name for found in profile.layers] == ["m", "a", "reorder"]
    assert [found.bound for found in profile.layers] == ["compute", "memory", None]


def test_a_fused_layer_moves_only_what_leaves_it() -> None:
    fused = (layer("both", 12.0, "multiply", "activate"),)
    profile = variant_profile("engine", a_graph(), a_machine(), [fused], walls_ms=[12.0], precision="fp32")
    assert profile.layers[0].moved_bytes == 1_000_000 + 1_000_000 + 400_000
    assert profile.layers[0].nodes == 2


def test_layers_of_the_same_name_are_kept_apart() -> None:
    run = (layer("same", 1.0), layer("same", 5.0))
    profile = variant_profile("engine", a_graph(), a_machine(), [run] * 3, walls_ms=[6.0] * 3, precision="fp32")
    assert [found.ms for found in profile.layers] == [5.0, 1.0]
    assert profile.where_ms["unknown"] == 6.0
    assert profile.macs_matched == 0.0


@pytest.mark.parametrize(
    ("precision", "engine_says", "limit_ms"),
    [("fp32", "bf16", 1.0), ("bf16", "", 1.0), ("fp32", "", 10.0), ("bf16", "fp32", 10.0)],
    ids=["the engine's word", "the variant's precision", "the file's type", "an engine that kept a layer"],
)
def test_a_layer_is_held_against_the_precision_that_it_computes_in(
    precision: str, engine_says: str, limit_ms: float
) -> None:
    run = (layer("m", 12.0, "multiply", precision=engine_says),)
    profile = variant_profile("engine", a_graph(), a_machine(), [run], walls_ms=[12.0], precision=precision)
    assert profile.layers[0].limit_ms == pytest.approx(limit_ms)


def test_bytes_are_timed_at_the_working_set_below_them() -> None:
    machine = a_machine()
    assert machine.layer_memory_ms(32 * MEBIBYTE) == pytest.approx(32 * MEBIBYTE / 100e6)
    assert machine.layer_memory_ms(64 * MEBIBYTE) == pytest.approx(64 * MEBIBYTE / 10e6)
    assert machine.layer_memory_ms(1000) == pytest.approx(1000 / 100e6)
    assert machine.main_memory_ms(1000) == pytest.approx(1000 / 10e6)
