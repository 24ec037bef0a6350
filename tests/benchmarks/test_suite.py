from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from numpy.typing import NDArray

from spacecompile.benchmarks import suite, variants
from spacecompile.benchmarks.contest import ContestSettings
from spacecompile.benchmarks.further import FurtherSettings
from spacecompile.benchmarks.latency import LatencySettings
from spacecompile.benchmarks.limit_records import LimitReport
from spacecompile.benchmarks.records import Agreement, BenchResult, Configuration, ScoreReport, read_result
from spacecompile.benchmarks.suite import BenchRun, BenchSettings, run_bench
from spacecompile.benchmarks.variants import LoadSettings, VariantContestant
from spacecompile.contract import FileFact, Manifest
from spacecompile.data.render.dataset import render_dataset
from spacecompile.data.render.settings import RenderSettings
from spacecompile.errors import CheckpointError, DataError, MissingPartError, UsageError
from spacecompile.export.build import build
from spacecompile.export.plan import BuildOptions
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.backends import openvino_cache, registry
from spacecompile.runtime.bundle import open_bundle
from spacecompile.runtime.session import load

ROUNDS = 12


def settings(*, rounds: int = ROUNDS, **changes: object) -> BenchSettings:
    contest = ContestSettings(
        how=LoadSettings(backend="auto", threads=1, spinning=False),
        latency=LatencySettings(
            rounds_min=rounds,
            duration_s=0,
            warmup_rounds=1,
            warmup_s=0,
            settle_max_ms=0,
            priming_calls=0,
            block_calls=1,
        ),
        peers=("plain-export", "pytorch-eager"),
        from_file=False,
    )
    return BenchSettings(contest=contest, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("frames")
    render_dataset(root, RenderSettings(num_frames=6, seed=11, split="val", frame_size_px=128))
    return root


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


def interrupted(bundle: Path, at_call: int, monkeypatch: pytest.MonkeyPatch, data: Path | None = None) -> BenchResult:
    """A run of one real variant in which Ctrl-C is pressed at one of its calls."""
    run, calls = VariantContestant.run, count(1)

    def run_or_interrupt(contestant: VariantContestant, frame_HWC: NDArray[np.uint8]) -> Answer:
        if next(calls) == at_call:
            raise KeyboardInterrupt
        return run(contestant, frame_HWC)

    monkeypatch.setattr(VariantContestant, "run", run_or_interrupt)
    return run_bench(open_bundle(bundle), settings(peers=False, variants=("fp32",), data=data)).result


def test_an_interrupt_during_the_latency_run_keeps_its_samples(
    tiny_bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Six calls to compare answers, one to warm up, then the fifth round.
    result = interrupted(tiny_bundle, 6 + 1 + 5, monkeypatch, data)
    assert result.partial
    assert isinstance(result.latency, dict)
    assert result.latency["app"]["fp32"].samples == 4
    assert result.score is UNSET
    assert any("interrupted" in warning for warning in result.warnings)
    assert read_result(msgspec.json.encode(result)) == result


def test_an_interrupt_before_the_latency_run_leaves_its_section_out(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = interrupted(tiny_bundle, 1, monkeypatch)
    assert result.partial
    assert result.latency is UNSET
    assert result.peers is UNSET
    assert result.budget.passed
    assert read_result(msgspec.json.encode(result)) == result


def test_an_interrupt_during_the_scores_keeps_the_latency(
    tiny_bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "evaluate", evaluate)
    result = run_bench(open_bundle(tiny_bundle), settings(peers=False, variants=("fp32",), data=data, rounds=1)).result
    assert result.partial
    assert isinstance(result.latency, dict)
    assert result.latency["app"]["fp32"].samples == 1


LIMITS = FurtherSettings(duration_s=0, threads=1, spinning=False)


def test_an_interrupt_during_the_limits_keeps_the_variants_that_are_done(tiny_bundle: Path) -> None:
    def progress(step: str, done: int, _: int) -> None:
        if step == "limits of the variants" and done == 1:
            raise KeyboardInterrupt

    run = run_bench(open_bundle(tiny_bundle), settings(peers=False, rounds=1, limits=LIMITS), progress=progress)
    assert run.result.partial
    assert isinstance(run.result.roofline, LimitReport)
    assert list(run.result.roofline.variants) == ["fp32"]
    assert run.failure is None
    assert read_result(msgspec.json.encode(run.result)) == run.result


def test_a_step_that_fails_after_the_latency_run_costs_only_itself(
    tiny_bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise UsageError("sessions side by side failed: out of memory")

    monkeypatch.setattr(suite, "measure_throughput", fail)
    asked = settings(peers=False, variants=("fp32",), rounds=1, data=data, score_limit=1, throughput=True)
    run = run_bench(open_bundle(tiny_bundle), asked)
    result = run.result
    assert result.partial
    assert result.failed_steps == {"throughput": "sessions side by side failed: out of memory"}
    assert any("the step throughput failed" in warning for warning in result.warnings)
    assert isinstance(run.failure, UsageError)
    assert isinstance(result.latency, dict)
    assert isinstance(result.score, ScoreReport)
    assert list(result.budget.graphs) == ["fp32"]
    assert result.throughput is UNSET
    assert read_result(msgspec.json.encode(result)) == result


def test_a_failure_before_anything_was_measured_ends_the_run(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise MissingPartError("no engine")

    monkeypatch.setattr("spacecompile.benchmarks.contest.measure", fail)
    with pytest.raises(MissingPartError, match="no engine"):
        run_bench(open_bundle(tiny_bundle), settings(peers=False, variants=("fp32",), rounds=1))


def test_a_step_inside_the_latency_run_that_fails_keeps_its_samples(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise UsageError("the counter stopped")

    monkeypatch.setattr("spacecompile.benchmarks.contest.open_counters", fail)
    run = run_bench(open_bundle(tiny_bundle), settings(peers=False, variants=("fp32",), rounds=1))
    assert run.result.failed_steps == {"latency": "the counter stopped"}
    assert isinstance(run.result.latency, dict)


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


def certified_on(bundle: Path, target: Path, **certified: tuple[str, ...]) -> Path:
    """A copy of a bundle whose variants are certified on other backends; `bf16` is a variant of the fp32 file."""
    shutil.copytree(bundle, target)
    manifest = msgspec.json.decode((target / "manifest.json").read_bytes(), type=Manifest)
    fp32, d4 = manifest.variants
    variants = {"fp32": fp32, "fp32_d4": d4, "bf16": msgspec.structs.replace(fp32, name="bf16", precision="bf16")}
    chosen = tuple(msgspec.structs.replace(variants[name], certified=names) for name, names in certified.items())
    manifest = msgspec.structs.replace(manifest, variants=chosen)
    (target / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return target


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lacks OpenVINO."""
    lacking = [
        dataclasses.replace(entry, missing=lambda: "the package openvino is not installed")
        if entry.name == "openvino"
        else entry
        for entry in registry.BACKENDS
    ]
    monkeypatch.setitem(registry.choose_backend.__kwdefaults__, "backends", lacking)
    monkeypatch.setattr(variants, "BACKENDS", lacking)


needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")


@needs_openvino
def test_every_variant_carries_the_engine_that_ran_it(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = certified_on(tiny_bundle, tmp_path / "b.spacepkg", fp32=("openvino",), fp32_d4=("onnxruntime",))
    result = run_bench(open_bundle(bundle), settings(peers=False, rounds=1)).result
    assert isinstance(result.configuration, Configuration)
    engines = result.configuration.engines
    assert {name: engine.name for name, engine in engines.items()} == {"fp32": "openvino", "fp32-d4": "onnxruntime"}
    assert engines["fp32"].version in result.configuration.backend
    assert engines["fp32-d4"].version in result.configuration.backend
    assert "certified for fp32" in engines["fp32"].reason
    assert read_result(msgspec.json.encode(result)) == result


@pytest.mark.usefixtures("without_openvino")
def test_a_variant_whose_engine_is_missing_is_listed_with_the_command_and_the_others_are_measured(
    tiny_bundle: Path, tmp_path: Path, data: Path
) -> None:
    bundle = certified_on(tiny_bundle, tmp_path / "b.spacepkg", bf16=("openvino",), fp32=("onnxruntime",))
    result = run_bench(open_bundle(bundle), settings(peers=False, rounds=1, data=data, score_limit=1)).result
    assert isinstance(result.latency, dict)
    assert list(result.latency["app"]) == ["fp32"]
    assert isinstance(result.skipped, dict)
    assert "pip install 'spacecompile[openvino]'" in result.skipped["bf16"]
    assert any("variant bf16 was left out" in warning for warning in result.warnings)
    assert result.missing_backends == {
        "openvino": "the package openvino is not installed; add it with: pip install 'spacecompile[openvino]'"
    }
    assert isinstance(result.score, ScoreReport)
    assert list(result.score.variants) == ["fp32"]


@needs_openvino
def test_all_certified_backends_are_interleaved_and_named(tiny_bundle: Path, tmp_path: Path) -> None:
    certified = {"fp32": ("onnxruntime", "openvino"), "fp32_d4": ("onnxruntime",)}
    bundle = certified_on(tiny_bundle, tmp_path / "b.spacepkg", **certified)
    result = run_bench(open_bundle(bundle), settings(peers=False, rounds=4, backends=("all",))).result
    assert isinstance(result.latency, dict)
    names = ["fp32@onnxruntime", "fp32@openvino", "fp32-d4@onnxruntime"]
    assert list(result.latency["app"]) == names
    assert isinstance(result.configuration, Configuration)
    assert [result.configuration.engines[name].name for name in names] == ["onnxruntime", "openvino", "onnxruntime"]
    assert set(names) <= result.subject.variant_bytes.keys()
    assert read_result(msgspec.json.encode(result)) == result


@pytest.mark.usefixtures("without_openvino")
def test_no_variant_that_can_run_is_a_missing_part(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = certified_on(tiny_bundle, tmp_path / "b.spacepkg", bf16=("openvino",))
    with pytest.raises(MissingPartError, match="pip install"):
        run_bench(open_bundle(bundle), settings(peers=False, rounds=1))


def test_a_named_backend_runs_only_what_is_certified_on_it(tiny_bundle: Path, tmp_path: Path) -> None:
    certified = {"fp32": ("onnxruntime",), "fp32_d4": ("openvino",), "bf16": ("openvino",)}
    bundle = open_bundle(certified_on(tiny_bundle, tmp_path / "b.spacepkg", **certified))
    asked = settings(peers=False, rounds=1)
    how = dataclasses.replace(asked.contest.how, backend="onnxruntime")
    asked = dataclasses.replace(asked, contest=dataclasses.replace(asked.contest, how=how), backends=("onnxruntime",))
    result = run_bench(bundle, asked).result
    assert isinstance(result.latency, dict)
    assert list(result.latency["app"]) == ["fp32"]
    assert isinstance(result.skipped, dict)
    assert "not certified on onnxruntime, only on openvino" in result.skipped["fp32-d4"]
    assert "does not run" in result.skipped["bf16"]
    with pytest.raises(UsageError, match="not certified on onnxruntime"):
        run_bench(bundle, dataclasses.replace(asked, variants=("fp32-d4",)))


@needs_openvino
def test_no_start_takes_a_compiled_model_from_the_users_cache(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setattr(openvino_cache, "user_cache_folder", lambda: folder)
    bundle = certified_on(tiny_bundle, tmp_path / "b.spacepkg", fp32=("openvino",))
    run_bench(open_bundle(bundle), settings(peers=False, rounds=1))
    assert not folder.exists()


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
