from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from quick_bench import ROUNDS, certified_on, settings

from spacecompile.benchmarks.agreement import Agreement
from spacecompile.benchmarks.result_records import read_result
from spacecompile.benchmarks.score.records import ScoreReport
from spacecompile.benchmarks.suite import BenchRun, run_bench
from spacecompile.contract import FileFact, Manifest
from spacecompile.errors import CheckpointError, DataError, UsageError
from spacecompile.export.build import build
from spacecompile.export.plan import BuildOptions
from spacecompile.runtime.bundle import open_bundle
from spacecompile.runtime.session import load


@pytest.fixture(scope="module")
def whole_run(tiny_bundle: Path, tiny_checkpoint: Path, data: Path) -> BenchRun:
    """A real run with every contestant and every section."""
    everything = settings(data=data, checkpoint=tiny_checkpoint, score_limit=4, torch_scores=True)
    contest = dataclasses.replace(everything.contest, from_file=True)
    return run_bench(open_bundle(tiny_bundle), dataclasses.replace(everything, contest=contest))


def test_a_whole_run_measures_every_contestant_in_both_scopes(whole_run: BenchRun) -> None:
    latency = whole_run.result.latency
    assert isinstance(latency, dict)
    contestants = ["fp32", "fp32-d4", "plain-export", "pytorch-eager"]
    assert [list(latency[scope]) for scope in ("engine", "app")] == [contestants] * 2
    assert [latency["app"][name].samples for name in contestants] == [ROUNDS, ROUNDS // 4, ROUNDS, ROUNDS]
    assert list(latency["device"]) == ["fp32", "fp32-d4"]
    assert {name: files.samples for name, files in latency["file"].items()} == {"fp32": ROUNDS // 4}
    for name in contestants:
        engine, app = latency["engine"][name].samples_ms, latency["app"][name].samples_ms
        assert all(0 < inner <= outer for inner, outer in zip(engine, app, strict=True))


def test_a_whole_run_compares_every_variant_with_every_peer(whole_run: BenchRun) -> None:
    peers = whole_run.result.peers
    assert isinstance(peers, dict)
    for peer in peers.values():
        assert peer.missing is None
        assert {name: ratio.rounds for name, ratio in peer.ratios.items()} == {"fp32": ROUNDS, "fp32-d4": ROUNDS // 4}
        assert all(ratio.spread[0] <= ratio.ratio <= ratio.spread[1] for ratio in peer.ratios.values())
        assert peer.agreement is not UNSET


def test_a_whole_run_scores_the_shipped_files(whole_run: BenchRun, tiny_bundle: Path, data: Path) -> None:
    score = whole_run.result.score
    assert not isinstance(score, type(UNSET))
    assert list(score.variants) == ["fp32", "fp32-d4"]
    assert score.variants["fp32"].frames == 4
    with load(tiny_bundle, threads=1) as session:
        assert score.variants["fp32"].s_params == pytest.approx(
            1 - open_bundle(tiny_bundle).manifest.cost.params / 30e6
        )
        assert session.choice.variant == "fp32"


def test_a_whole_run_scores_pytorch_beside_the_files_on_the_same_frames(whole_run: BenchRun) -> None:
    score = whole_run.result.score
    assert isinstance(score, ScoreReport)
    assert list(score.torch) == ["none", "d4"]
    assert {scores.frames for scores in score.torch.values()} == {4}
    assert score.torch_note == ""
    # float32 files answer as PyTorch does.
    assert [score.drops[name] for name in ("fp32", "fp32-d4")] == pytest.approx([0, 0], abs=1e-3)
    assert score.s_final_charged["fp32"] == pytest.approx(score.variants["fp32"].s_final)
    assert score.s_final_charged["fp32-d4"] < score.variants["fp32-d4"].s_final


def test_a_whole_run_counts_stages_and_graphs(whole_run: BenchRun) -> None:
    budget = whole_run.result.budget
    assert [stage.stage for stage in budget.stages][:2] == ["encoder", "decoder"]
    assert sum(stage.after.params for stage in budget.stages) == budget.cost.params
    assert {name: graph.views for name, graph in budget.graphs.items()} == {"fp32": 1, "fp32-d4": 8}
    assert budget.notes == {}
    assert {"macs_fvcore", "macs_torch", "graphs"} <= budget.counters.keys()


def test_a_whole_run_carries_its_circumstances_and_the_certificate(whole_run: BenchRun, tiny_bundle: Path) -> None:
    result = whole_run.result
    assert not result.partial
    assert result.configuration is not UNSET
    assert result.configuration.frames == 6
    assert result.configuration.rounds == ROUNDS
    assert result.environment.threads == 1
    assert result.environment.machine is not None
    assert result.configuration.block_calls == 1
    assert {"engine", "device", "app", "file"} <= result.configuration.scopes.keys()
    assert result.parity == json.loads((tiny_bundle / "reports" / "parity.json").read_bytes())
    assert set(result.cold_start or {}) == {"fp32", "fp32-d4"}
    assert read_result(msgspec.json.encode(result)) == result


def test_the_answers_of_the_run_are_kept_for_pictures(whole_run: BenchRun, tiny_bundle: Path) -> None:
    assert len(whole_run.samples) == 6
    frame_HWC, answer = whole_run.samples[2]
    with load(tiny_bundle, threads=1, spinning=False) as session:
        expected = session(frame_HWC)
    assert np.array_equal(answer.parts_HW, expected.parts_HW)
    assert answer.class_name == expected.class_name


def test_without_labelled_frames_the_bundle_s_own_are_timed_and_the_score_says_what_is_needed(
    tiny_bundle: Path,
) -> None:
    result = run_bench(open_bundle(tiny_bundle), settings(peers=False, variants=("fp32",), rounds=1)).result
    assert result.configuration is not UNSET
    assert result.configuration.frames_source == "self-test frames of the bundle"
    assert result.score is UNSET
    assert "--data" in str(result.score_note)
    assert isinstance(result.latency, dict)
    assert list(result.latency["app"]) == ["fp32"]


def test_a_checkpoint_that_is_nowhere_leaves_the_peers_missing_with_the_command(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "alone.spacepkg"
    shutil.copytree(tiny_bundle, bundle)
    result = run_bench(open_bundle(bundle), settings(variants=("fp32",), rounds=1)).result
    assert isinstance(result.peers, dict)
    assert list(result.peers) == ["plain-export", "pytorch-eager"]
    assert "--checkpoint" in result.budget.notes["stages"]
    for peer in result.peers.values():
        assert "--checkpoint" in str(peer.missing)
        assert peer.ratios == {}


def test_a_plan_is_not_counted_as_an_onnx_file_and_the_rest_is(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = certified_on(tiny_bundle, tmp_path / "b.spacepkg", fp32=("onnxruntime",), fp32_d4=("onnxruntime",))
    content = b"a plan of an engine"
    (bundle / "variants" / "fp32" / "model.plan").write_bytes(content)
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)
    path = "variants/fp32/model.plan"
    plan = msgspec.structs.replace(manifest.variants[0], name="fp32-plan", path=path, certified=("tensorrt",))
    fact = FileFact(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    manifest = msgspec.structs.replace(
        manifest, variants=(*manifest.variants, plan), files={**manifest.files, path: fact}
    )
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    run = run_bench(open_bundle(bundle), settings(peers=False, rounds=1))
    budget = run.result.budget
    assert list(budget.graphs) == ["fp32", "fp32-d4"]
    assert budget.notes["graphs"].startswith("fp32-plan: variants/fp32/model.plan is no ONNX file")
    assert {name: graph.precision for name, graph in budget.graphs.items()} == {"fp32": "fp32", "fp32-d4": "fp32"}
    assert not run.result.partial


def test_pytorch_beside_a_bundle_of_another_size_does_the_bundle_s_task(quick_checkpoint: Path, tmp_path: Path) -> None:
    built = build(
        quick_checkpoint,
        output=tmp_path / "other.spacepkg",
        tta=("none",),
        options=BuildOptions(
            parity_frames=0, spec_changes={"input_size_px": (96, 96), "frame_size_px": (192, 192), "mean": (0.4,) * 3}
        ),
    )
    run = run_bench(open_bundle(built.path), settings(checkpoint=quick_checkpoint, rounds=1))
    peers = run.result.peers
    assert isinstance(peers, dict)
    for peer in peers.values():
        assert peer.missing is None
        assert isinstance(peer.agreement, Agreement)
        # At the checkpoint's own mean the probabilities would be far off, and the frames would not even fit.
        assert peer.agreement.class_probs_max <= 0.02
    assert sum(stage.before.macs_fvcore for stage in run.result.budget.stages) == built.cost_source.macs_fvcore


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"variants": ("fp16",)}, UsageError, "it has fp32, fp32-d4"),
        ({"data": Path("nowhere")}, DataError, "nowhere"),
        ({"checkpoint": Path("nowhere.pt")}, CheckpointError, "nowhere.pt does not exist"),
    ],
    ids=["variant", "data", "checkpoint"],
)
def test_an_input_that_can_t_be_used_is_one_sentence(
    tiny_bundle: Path, changes: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run_bench(open_bundle(tiny_bundle), settings(**changes))  # type: ignore[arg-type]
