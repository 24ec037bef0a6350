from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from spacecompile.benchmarks.limits.scaling import ScalingSettings, measure_scaling
from spacecompile.benchmarks.limits.scaling_fit import fitted, variable_of
from spacecompile.benchmarks.limits.scaling_records import Axis, ScalingPoint
from spacecompile.box_rule import BoxHead, BoxRule
from spacecompile.contract import FP32_TOLERANCE, INPUT_NAME, ModelSpec, Variant
from spacecompile.errors import IntegrityError
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.runtime.backends.onnxruntime_raw import OnnxRuntimeGraph
from spacecompile.runtime.backends.raw import Feeds

FP32 = Variant(
    name="fp32", precision="fp32", tta="none", path="variants/fp32/model.onnx", opset=20, tolerance=FP32_TOLERANCE
)


def point(value: float, ms: float) -> ScalingPoint:
    return ScalingPoint(value=value, ms=ms, spread_ms=(ms, ms), runs=3, macs=1)


@pytest.mark.parametrize(
    ("axis", "cost", "fixed_ms", "slope_ms", "exponent"),
    [
        ("input", lambda side: 5 + 40 * side * side / 1e6, 5, 40, None),
        ("frame", lambda side: 7 * side * side / 1e6, 0, 7, 1.0),
        ("batch", lambda batch: 3 * batch, 0, 3, 1.0),
        ("threads", lambda threads: 20 + 80 / threads, 20, 80, None),
    ],
    ids=["input", "frame", "batch", "threads"],
)
def test_a_line_that_was_put_in_is_found(
    axis: Axis, cost: object, fixed_ms: float, slope_ms: float, exponent: float | None
) -> None:
    values = (1, 2, 4, 8) if axis in ("batch", "threads") else (256, 512, 1024)
    fit = fitted(axis, [point(value, cost(value)) for value in values], aspect=1.0)  # type: ignore[operator]
    assert fit is not None
    assert fit.fixed_ms == pytest.approx(fixed_ms, abs=1e-6)
    assert fit.slope_ms == pytest.approx(slope_ms)
    assert fit.r_squared == pytest.approx(1.0)
    assert exponent is None or fit.exponent == pytest.approx(exponent)
    assert (fit.exponent < 1) == (fixed_ms > 0)


def test_scattered_points_are_explained_in_part_only() -> None:
    fit = fitted("batch", [point(1, 5), point(2, 1), point(3, 6), point(4, 2)], aspect=1.0)
    assert fit is not None
    assert fit.r_squared < 0.2


def test_two_points_make_no_fit_and_a_wide_input_has_more_pixels() -> None:
    assert fitted("augmentation", [point(1, 10), point(8, 70)], aspect=1.0) is None
    assert variable_of("input", 512, aspect=2.0) == pytest.approx(2 * variable_of("input", 512, aspect=1.0))


def test_every_curve_of_a_real_network_is_measured(quick_checkpoint: Path) -> None:
    spec = load_checkpoint(quick_checkpoint).spec
    settings = ScalingSettings(
        threads=2,
        spinning=False,
        input_sides_px=(64, 96),
        frame_multiples=(1, 2),
        batches=(1, 2),
        rounds=2,
    )
    steps: list[tuple[int, int]] = []
    *_, report = measure_scaling(
        quick_checkpoint,
        spec,
        FP32,
        backend="onnxruntime",
        settings=settings,
        progress=lambda _, done, total: steps.append((done, total)),
    )
    assert report.skipped == {}
    by_axis = {curve.axis: curve for curve in report.curves}
    values = {axis: [point.value for point in curve.points] for axis, curve in by_axis.items()}
    assert values == {
        "input": [64, 96],
        "frame": [64, 128],
        "batch": [1, 2],
        "threads": [1, 2],
        "augmentation": [1, 8],
    }
    macs = {axis: [point.macs for point in curve.points] for axis, curve in by_axis.items()}
    assert macs["input"][1] > 2 * macs["input"][0]
    assert macs["batch"][1] > 1.8 * macs["batch"][0]
    assert macs["augmentation"][1] > 7 * macs["augmentation"][0]
    assert by_axis["frame"].fit is None
    assert all(point.runs == 2 for curve in report.curves for point in curve.points)
    assert steps[-1] == (10, 10)


def test_a_size_that_can_not_be_built_is_named_and_the_rest_is_measured(
    quick_checkpoint: Path,
) -> None:
    spec = load_checkpoint(quick_checkpoint).spec
    settings = ScalingSettings(
        threads=1, spinning=False, input_sides_px=(64,), frame_multiples=(2,), batches=(1,), rounds=1
    )
    *_, report = measure_scaling(quick_checkpoint, spec, FP32, backend="tensorrt", settings=settings)
    assert "tells no times" in report.skipped["input 64"]
    assert all(curve.points == () for curve in report.curves)


@pytest.mark.parametrize("at_run", [1, 2], ids=["warming up", "recorded"])
def test_a_point_whose_engine_gives_up_is_named_and_the_others_of_its_curve_are_measured(
    quick_checkpoint: Path, at_run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_checkpoint(quick_checkpoint).spec
    settings = ScalingSettings(
        threads=1, spinning=False, input_sides_px=(64,), frame_multiples=(1, 2, 3), batches=(1,), rounds=2
    )
    run, calls = OnnxRuntimeGraph.run, count(1)

    def run_or_fail(graph: OnnxRuntimeGraph, feeds: Feeds) -> None:
        height_px = feeds[INPUT_NAME].shape[0]
        if height_px == 192 and next(calls) == at_run:
            raise IntegrityError("ONNX Runtime failed on the graph: out of memory.")
        run(graph, feeds)

    monkeypatch.setattr(OnnxRuntimeGraph, "run", run_or_fail)
    *_, report = measure_scaling(quick_checkpoint, spec, FP32, backend="onnxruntime", settings=settings)
    assert report.skipped == {"frame 192": "ONNX Runtime failed on the graph: out of memory."}
    points = {curve.axis: [(point.value, point.runs) for point in curve.points] for curve in report.curves}
    assert points["frame"] == [(64, 2), (128, 2)]
    assert points["augmentation"] == [(1, 2), (8, 2)]


def test_a_network_with_a_box_head_scales_and_every_curve_is_kept_as_it_is_done(tmp_path: Path) -> None:
    spec = ModelSpec(
        architecture="Unet",
        encoder="tu-test_resnet",
        encoder_depth=4,
        decoder_options={"decoder_channels": [32, 16, 16, 8]},
        input_size_px=(64, 64),
        frame_size_px=(64, 64),
        box=BoxRule(residual=True),
        box_head=BoxHead(channels=8),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(tmp_path / "net.pt", MultiTaskNetwork(spec).eval(), training={})
    settings = ScalingSettings(
        threads=1, spinning=False, input_sides_px=(64,), frame_multiples=(1,), batches=(1, 2), rounds=1
    )
    kept = list(measure_scaling(tmp_path / "net.pt", spec, FP32, backend="onnxruntime", settings=settings))
    report = kept[-1]
    assert report.skipped == {}
    assert [len(partial.curves) for partial in kept] == [1, 2, 3, 4, 5]
    batches = next(curve for curve in report.curves if curve.axis == "batch")
    assert [point.value for point in batches.points] == [1, 2]


def test_sizes_are_those_of_the_bundle(quick_checkpoint: Path) -> None:
    spec = replace(load_checkpoint(quick_checkpoint).spec, frame_size_px=(192, 192), input_size_px=(96, 96))
    settings = ScalingSettings(
        threads=1, spinning=False, input_sides_px=(96,), frame_multiples=(1,), batches=(1,), rounds=1
    )
    *_, report = measure_scaling(quick_checkpoint, spec, FP32, backend="onnxruntime", settings=settings)
    fixed = {curve.axis: curve.fixed for curve in report.curves}
    assert fixed["threads"] == "96x96 input, 192x192 frame"
