"""Which engine runs which variant."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
from quick_bench import certified_on, settings

from spacecompile.benchmarks.latency import variants
from spacecompile.benchmarks.result_records import Configuration, read_result
from spacecompile.benchmarks.score.records import ScoreReport
from spacecompile.benchmarks.suite import run_bench
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.runtime.backends import openvino_cache, registry
from spacecompile.runtime.bundle import open_bundle


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
