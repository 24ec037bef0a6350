"""Limits of a real bundle in real engines; that the numbers hold together, never how large they are."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from spacecompile.benchmarks.latency.variants import Entrant, LoadSettings
from spacecompile.benchmarks.limits.ceilings import (
    CeilingSettings,
    matrix_product,
    measure_bandwidths,
    measure_ceilings,
)
from spacecompile.benchmarks.limits.measure import LimitSettings, measure_limits
from spacecompile.contract import Precision
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.export.onnx_facts.file_facts import graph_facts
from spacecompile.export.onnx_facts.traffic import graph_traffic
from spacecompile.runtime.backends.raw import open_raw
from spacecompile.runtime.bundle import open_bundle

ENGINES = ("onnxruntime", "openvino")
WORKING_SETS_BYTES = (1 << 18, 1 << 20)
SHORT = LimitSettings(
    threads=1,
    spinning=False,
    profile=True,
    ceiling_s=0,
    runs_min=2,
    variant_s=0,
    matrix_side=128,
    working_sets_bytes=WORKING_SETS_BYTES,
)
QUICK = CeilingSettings(threads=2, spinning=False, seconds=0, matrix_side=128, working_sets_bytes=WORKING_SETS_BYTES)


@pytest.mark.parametrize("backend", ENGINES)
def test_every_variant_gets_its_share_and_every_layer_its_limit(
    backend: str, tiny_bundle: Path, toy_frames: list[NDArray[np.uint8]]
) -> None:
    bundle = open_bundle(tiny_bundle)
    how = LoadSettings(backend=backend, threads=1, spinning=False)
    asked = [Entrant(name=variant.name, variant=variant, how=how) for variant in bundle.manifest.variants]
    steps: list[tuple[str, int, int]] = []
    *_, report = measure_limits(
        bundle, asked, {"fp32": backend}, toy_frames, SHORT, progress=lambda *step: steps.append(step)
    )
    assert list(report.variants) == list(report.profiles) == ["fp32"]  # of the other one nobody knows the engine
    limit, profile = report.variants["fp32"], report.profiles["fp32"]
    facts = graph_facts(bundle.read(bundle.variant("fp32").path))
    assert sum(limit.macs.values()) == facts.macs
    assert limit.share == pytest.approx(limit.limit_ms / limit.measured_ms)
    assert limit.boundary_bytes > 128 * 128 * 4 + sum(facts.weight_bytes.values())
    assert profile.macs_matched == pytest.approx(1.0)
    assert sum(layer.macs for layer in profile.layers) == facts.macs
    assert sum(profile.where_ms.values()) == pytest.approx(profile.profiled_ms)
    assert {ceiling.precision for ceiling in report.ceilings} == {"fp32"}
    assert {ceiling.backend for ceiling in report.ceilings} == set(ENGINES)
    assert steps[-1] == ("limits of the variants", 1, 1)


def test_a_variant_that_its_engine_can_not_run_is_named_with_the_reason(
    tiny_bundle: Path, toy_frames: list[NDArray[np.uint8]]
) -> None:
    bundle = open_bundle(tiny_bundle)
    (variant, *_) = bundle.manifest.variants
    how = LoadSettings(backend="auto", threads=1, spinning=False)
    asked = [Entrant(name="fp32", variant=variant, how=how)]
    *_, report = measure_limits(bundle, asked, {"fp32": "tensorrt"}, toy_frames, SHORT)
    assert "tells no times" in report.missing["fp32"]
    assert report.variants == {}


def test_a_plan_is_named_and_its_neighbours_are_measured(
    tiny_bundle: Path, toy_frames: list[NDArray[np.uint8]]
) -> None:
    bundle = open_bundle(tiny_bundle)
    how = LoadSettings(backend="auto", threads=1, spinning=False)
    fp32 = bundle.variant("fp32")
    plan = msgspec.structs.replace(fp32, name="plan", path="variants/fp32/model.plan")
    asked = [Entrant(name=variant.name, variant=variant, how=how) for variant in (plan, fp32)]
    reports = measure_limits(
        bundle,
        asked,
        {"plan": "tensorrt", "fp32": "onnxruntime"},
        toy_frames,
        dataclasses.replace(SHORT, profile=False),
    )
    kept = [(report, list(report.variants)) for report in reports]
    report = kept[-1][0]
    assert "no ONNX file" in report.missing["plan"]
    assert list(report.variants) == ["fp32"]
    assert [names for _, names in kept] == [["fp32"]]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_matrix_product_multiplies_in_its_precision(precision: Precision) -> None:
    facts = graph_facts(matrix_product(precision, side=64))
    assert facts.mac_shares == {precision: 1.0}
    assert facts.macs == 64**3


def test_an_engine_without_a_precision_leaves_its_ceiling_out() -> None:
    found = measure_ceilings(("int8", "bf16"), QUICK)
    assert ("onnxruntime", "int8") in {(ceiling.backend, ceiling.precision) for ceiling in found}
    assert ("onnxruntime", "bf16") not in {(ceiling.backend, ceiling.precision) for ceiling in found}
    assert all(ceiling.gmacs_per_s > 0 and ceiling.runs >= 5 for ceiling in found)


def test_every_working_set_is_copied_by_every_thread() -> None:
    found = measure_bandwidths(QUICK)
    assert [rung.working_set_bytes for rung in found] == list(WORKING_SETS_BYTES)
    assert all(rung.gb_per_s > 0 for rung in found)


@pytest.mark.parametrize("backend", ENGINES)
def test_layers_are_told_only_of_a_profiled_graph(backend: str) -> None:
    plain = open_raw(backend, matrix_product("fp32", side=64), precision="fp32", threads=1, spinning=False)
    plain.run({"left": np.zeros((64, 64), np.float32)})
    with pytest.raises(UsageError, match="profile=True"):
        plain.layers()


def test_an_engine_that_can_not_be_imported_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacecompile.runtime.backends.openvino_raw", None)
    with pytest.raises(MissingPartError, match="spacecompile doctor"):
        open_raw("openvino", b"", precision="fp32", threads=1, spinning=False)
    with pytest.raises(UsageError, match="choose one of onnxruntime, openvino"):
        open_raw("tensorrt", b"", precision="fp32", threads=1, spinning=False)


def test_the_traffic_of_a_quantised_product_is_that_of_its_stored_weight() -> None:
    traffic = graph_traffic(matrix_product("int8", side=64))
    (product,) = traffic.known(frozenset({"multiply"}))
    assert [node.op for node in traffic.known(frozenset({"product"}))] == ["QuantizeLinear"]
    # Eight bits of each factor, and the float that the product leaves in.
    assert traffic.moved_bytes([product]) == 64 * 64 * (1 + 1 + 4)
