"""A whole result made of recorded numbers, without any section having been measured here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from spacecompile.benchmarks.agreement import Agreement
from spacecompile.benchmarks.cost.budget import COUNTERS
from spacecompile.benchmarks.cost.records import BudgetLine, BudgetReport, GraphCost, StageCost
from spacecompile.benchmarks.latency.records import (
    ColdStart,
    Energy,
    Paced,
    ProcessStart,
    Ratio,
    Throughput,
    VariantEngine,
)
from spacecompile.benchmarks.latency.summary import summarise
from spacecompile.benchmarks.limits.records import (
    WHERE,
    Bandwidth,
    Ceiling,
    LayerLimit,
    LimitReport,
    VariantLimit,
    VariantProfile,
)
from spacecompile.benchmarks.limits.scaling_records import Axis, Fit, ScalingCurve, ScalingPoint, ScalingReport
from spacecompile.benchmarks.peers.records import Peer
from spacecompile.benchmarks.result_records import BenchResult, Configuration, Subject
from spacecompile.benchmarks.score.records import ScoreReport
from spacecompile.contract import Cost, PassReport
from spacecompile.machine.records import Environment, MachineFacts
from spacecompile.metrics import Scores

BEFORE = Cost(params=3_454_060, macs_fvcore=4_482_700_000, macs_torch=4_411_600_000)
AFTER = Cost(params=3_387_884, macs_fvcore=3_396_300_000, macs_torch=3_337_900_000)

PARITY = {
    "reference": "torch",
    "backend": "onnxruntime",
    "backend_threads": 2,
    "variants": [
        {
            "variant": "fp32",
            "backend": backend,
            "sha256": "a" * 64,
            "passed": not failures,
            "failures": failures,
            "num_frames": {"adversarial": 5, "real": 32},
            "class_agreement": 1.0,
            "class_probs_max": 2.1e-7,
            "parts_iou_min": 0.99987,
            "box_px_max": 0.25,
        }
        for backend, failures in (("onnxruntime 1.20", []), ("openvino 2026.4", ["a box edge is off by 3 px (most 2)"]))
    ],
}


def recorded(median_ms: float, samples: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(samples).normal(median_ms, 0.05 * median_ms, samples).round(3).tolist())


def _scores(s_final: float = 0.9122) -> Scores:
    return Scores(
        s_cls=0.95, s_det=0.91, s_seg=0.88, s_acc=0.906, s_flops=0.966, s_params=0.887, s_final=s_final, frames=40
    )


@pytest.fixture(scope="session")
def whole_result() -> BenchResult:
    """Every section that a run can hold."""
    app = {
        "fp32": recorded(80, 70),
        "fp32-d4": recorded(640, 20),
        "plain-export": recorded(120, 70),
    }
    agreement = Agreement(
        frames=16,
        class_agreement=1.0,
        class_probs_max=0.0012,
        parts_iou_mean=0.981,
        parts_iou_min=0.94,
        near_px=4,
        parts_near_mean=0.998,
        box_px_median=1.0,
        box_px_max=3.0,
        same=True,
    )
    return BenchResult(
        version="0.1.0",
        created="2026-11-22T13:00:00+00:00",
        partial=False,
        subject=Subject(
            bundle="net",
            source_sha256="0123456789abcdef" * 4,
            architecture="Segformer",
            encoder="mit_b0",
            input_size_px=(512, 512),
            frame_size_px=(1024, 1024),
            variant_bytes={"fp32": 13_530_000, "fp32-d4": 13_540_000},
            checkpoint_training={"scores": {"s_final": 0.913}},
        ),
        configuration=Configuration(
            backend="openvino 2026.4, onnxruntime 1.20",
            spinning=True,
            frames=16,
            frames_source="frames, split val",
            rounds=70,
            rounds_min=64,
            duration_s=60.0,
            warmup_rounds=3,
            warmup_s=2.0,
            settle_max_ms=150.0,
            priming_calls=1,
            augmented_every=4,
            block_calls=5,
            scopes={"device": "the engine's call with its copies", "file": "image file to answer"},
            engines={
                "fp32": VariantEngine(name="openvino", version="2026.4", reason="auto: the fastest"),
                "fp32-d4": VariantEngine(name="onnxruntime", version="1.20", reason="auto: the only one"),
            },
        ),
        environment=Environment(
            cpu="Flight Processor 9",
            cores=2,
            threads=2,
            openmp_wait_policy=None,
            governor=None,
            load_average_start=0.4,
            load_average_end=2.1,
            memory_bytes=24 << 30,
            platform="Linux",
            versions={"python": "3.11", "numpy": "2"},
            commit="f" * 40,
            modified=False,
            machine=MachineFacts(
                frequency_start_mhz=3100.0,
                frequency_end_mhz=2900.0,
                temperature_start_c=51.0,
                temperature_end_c=88.0,
                throttle_events=17,
                stolen_share=0.012,
                others_share=0.034,
                accelerators=("Flight GPU 3, driver 5",),
            ),
        ),
        budget=BudgetReport(
            passed=True,
            lines=(
                BudgetLine(
                    key="gmacs_max",
                    label="Multiply-adds",
                    value=3.3963,
                    limit=100.0,
                    margin=96.6037,
                    unit="GMAC",
                    passed=True,
                ),
                BudgetLine(
                    key="score_drop_max",
                    label="Drop of s_final, fp32",
                    value=-0.0021,
                    limit=0.0,
                    margin=0.0021,
                    unit="",
                    passed=True,
                ),
            ),
            counter="fvcore",
            cost_source=BEFORE,
            cost=AFTER,
            rewrites=(
                PassReport(name="fold_batchnorm", changed=True, before=BEFORE, after=AFTER, relative_error=1.5e-15),
            ),
            counters=COUNTERS,
            stages=(StageCost(stage="encoder", before=BEFORE, after=AFTER),),
            graphs={
                "fp32": GraphCost(
                    params=3_390_000,
                    macs=3_400_000_000,
                    views=1,
                    macs_by_op={"MatMul": 2_000_000_000, "Conv": 1_400_000_000},
                    macs_by_type={"fp32": 3_400_000_000},
                    file_bytes=13_530_000,
                    weight_bytes=13_500_000,
                )
            },
        ),
        score=ScoreReport(
            data="frames",
            split="val",
            variants={"fp32": _scores()},
            s_final_charged={"fp32": 0.9107},
            torch={"none": _scores(0.9101), "d4-median": _scores(0.9188)},
            drops={"fp32": -0.0021},
        ),
        latency={
            "engine": {"fp32": summarise(recorded(79, 70))},
            "device": {"fp32": summarise(recorded(79.25, 70))},
            "app": {
                name: summarise(samples_ms, (99.9,) if name == "plain-export" else ())
                for name, samples_ms in app.items()
            },
            "file": {"fp32": summarise(recorded(92, 70))},
        },
        process_start={
            "fp32": ProcessStart(
                starts=3,
                import_ms=120.0,
                load_ms=410.0,
                first_answer_ms=95.0,
                next_answer_ms=78.0,
                start_to_answer_ms=625.0,
                imported_memory_bytes=48_000_000,
                peak_memory_bytes=212_000_000,
            )
        },
        paced={
            "fp32": Paced(
                rate_hz=5.0,
                frames=70,
                deadline_misses=2,
                late_starts=1,
                busy_share=0.41,
                latency=summarise(recorded(83, 70)),
            )
        },
        throughput={
            "fp32": (
                Throughput(sessions=1, threads=2, frames=37, seconds=3.0, frames_per_s=12.3),
                Throughput(sessions=2, threads=1, frames=45, seconds=3.0, frames_per_s=15.0),
            )
        },
        energy={"fp32": Energy(counter="RAPL package-0", frames=50, joules_per_frame=1.9, watts=24.0, idle_watts=9.0)},
        missing_backends={"openvino": "the package openvino is not installed; add it with: pip install openvino"},
        skipped={"bf16": "the package openvino is not installed; add it with: pip install openvino"},
        cold_start={"fp32": ColdStart(load_ms=250.0, first_answer_ms=400.0)},
        peers={
            "plain-export": Peer(
                label="plain smp export",
                ratios={
                    "fp32": Ratio(ratio=0.667, spread=(0.64, 0.69), rounds=70),
                    "fp32-d4": Ratio(ratio=5.3, spread=(5.1, 5.6), rounds=20),
                },
                agreement=agreement,
                versions="onnxruntime 1.20",
            ),
            "ttach-d4": Peer(
                label="PyTorch eager with ttach",
                ratios={"fp32-d4": Ratio(ratio=0.444, spread=(0.43, 0.46), rounds=20)},
                agreement=agreement,
                tta="d4",
                versions="torch 2.15",
            ),
            "pytorch-eager": Peer(label="PyTorch eager", ratios={}, missing="the package torch is not installed"),
        },
        parity=PARITY,
        warnings=("fp32: the samples vary",),
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled frames of the tiny checkpoint's size."""
    from spacecompile.data.render.dataset import render_dataset
    from spacecompile.data.render.settings import RenderSettings

    root = tmp_path_factory.mktemp("frames")
    render_dataset(root, RenderSettings(num_frames=6, seed=11, split="val", frame_size_px=128))
    return root


@pytest.fixture(scope="session")
def limited_result(whole_result: BenchResult) -> BenchResult:
    """As `whole_result`, with limits, layers and scaling."""
    layers = tuple(
        LayerLimit(
            name=name,
            op="Convolution",
            kernel="jit_avx512",
            precision="fp32",
            nodes=1,
            macs=macs,
            moved_bytes=2_000_000,
            ms=ms,
            limit_ms=ms / 2,
            bound="compute",
        )
        for name, macs, ms in (("encoder_conv", 800_000_000, 12.0), ("decoder_conv_with_a_long_name", 90_000_000, 3.0))
    )
    limit = VariantLimit(
        backend="openvino",
        macs={"fp32": 3_299_000_000},
        boundary_bytes=17_700_000,
        compute_ms=40.0,
        memory_ms=1.5,
        limit_ms=40.0,
        bound="compute",
        measured_ms=79.0,
        measured_spread_ms=(77.0, 81.0),
        runs=24,
        share=40 / 79,
    )
    where_ms = dict(zip(WHERE, (38.0, 14.0, 2.0, 18.0, 5.0, 3.0), strict=True))
    profile = VariantProfile(
        backend="openvino", runs=24, profiled_ms=80.0, macs_matched=1.0, where_ms=where_ms, layers=layers
    )
    points = tuple(
        ScalingPoint(value=side_px, ms=side_px / 6, spread_ms=(side_px / 7, side_px / 5), runs=11, macs=side_px**2)
        for side_px in (256, 512, 1024)
    )
    fit = Fit(variable="megapixels", fixed_ms=31.0, slope_ms=135.0, r_squared=0.98, exponent=0.5)
    axes: tuple[Axis, ...] = ("input", "frame", "batch", "threads", "augmentation")
    return msgspec.structs.replace(
        whole_result,
        roofline=LimitReport(
            threads=2,
            ceilings=(
                Ceiling(backend="openvino", precision="fp32", gmacs_per_s=82.0, runs=40),
                Ceiling(backend="openvino", precision="bf16", gmacs_per_s=700.0, runs=90),
            ),
            bandwidths=(
                Bandwidth(working_set_bytes=1 << 20, gb_per_s=140.0),
                Bandwidth(working_set_bytes=1 << 28, gb_per_s=12.0),
            ),
            variants={"fp32": limit},
            profiles={"fp32": profile},
            missing={"fp32-d4": "no engine here could be measured in fp8"},
        ),
        scaling=ScalingReport(
            backend="openvino",
            precision="fp32",
            curves=tuple(ScalingCurve(axis=axis, fixed="1024x1024 frame", points=points, fit=fit) for axis in axes),
            skipped={"input 2048": "too large"},
        ),
    )


@pytest.fixture(scope="session")
def crowded_result(limited_result: BenchResult) -> BenchResult:
    """As `limited_result`, with eleven contestants: more than there are colours."""
    variants = [f"{variant}@{backend}" for variant in ("fp32", "bf16") for backend in ("onnxruntime", "openvino")]
    peers = [f"peer-{index}-with-a-long-name" for index in range(7)]
    app = {name: summarise(recorded(40 + 11 * index, 64 + index)) for index, name in enumerate([*variants, *peers])}
    ratio = Ratio(ratio=0.5, spread=(0.45, 0.56), rounds=64)
    assert isinstance(limited_result.roofline, LimitReport)
    limit = limited_result.roofline.variants["fp32"]
    return msgspec.structs.replace(
        limited_result,
        latency={"engine": {}, "app": app},
        score=ScoreReport(data="frames", split="val", variants=dict.fromkeys(app, _scores())),
        paced={
            name: Paced(rate_hz=10, frames=64, deadline_misses=0, late_starts=0, busy_share=0.4, latency=app[name])
            for name in variants
        },
        peers={name: Peer(label=name, ratios=dict.fromkeys(variants, ratio)) for name in peers},
        roofline=msgspec.structs.replace(limited_result.roofline, variants=dict.fromkeys(app, limit)),
    )
