"""Plans swapped into a bundle, with a fake TensorRT that runs the ONNX file, so that its answers are real ones."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_cuda import FakeDevice
from fake_tensorrt import fake_api, install, sidecar_of
from onnx import numpy_helper

from spacecompile.cli.main import main
from spacecompile.errors import BuildError, IntegrityError, MissingPartError, OutputError, ParityError, UsageError
from spacecompile.export.engine import rebuild as rebuild_module
from spacecompile.export.engine.build_plan import EngineBuild, Layers
from spacecompile.export.engine.plan_facts import EngineFacts, EngineOptions, RealisedTypes
from spacecompile.export.engine.rebuild import Rebuilt, buildable, rebuild
from spacecompile.runtime.backends import registry, tensorrt_
from spacecompile.runtime.bundle import open_bundle
from spacecompile.runtime.cuda import engine_api
from spacecompile.runtime.cuda.driver import CudaProbe
from spacecompile.runtime.cuda.engine_api import EngineApi
from spacecompile.runtime.selftest import run_selftest
from spacecompile.runtime.session import load

pytestmark = pytest.mark.xdist_group("rebuild")  # what the module's tests share is made once


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bundle, tmp_path / "net.spacepkg")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EngineApi:
    device = FakeDevice()
    install(monkeypatch, tmp_path / "package", device)
    return fake_api(device)


def built_of(model_bytes: bytes, api: EngineApi, *, share: str = "fp32", **_: Any) -> EngineBuild:
    """An engine as the library would build it: the ONNX file is the plan."""
    known = json.loads(sidecar_of(model_bytes, frame_size_px=(128, 128)))
    facts = EngineFacts(
        **known | {"options": EngineOptions(), "profile": {"frame": (128, 128, 3)}},
        timing_cache=False,
        strongly_typed=True,
        tf32=False,
        static_shapes=True,
        inputs=(),
        outputs=(),
        types=RealisedTypes(layers={}, compute_layers={}, compute_shares={share: 1.0}),
        certified=(),
        spacecompile="0",
    )
    return EngineBuild(plan=model_bytes, facts=facts, layers=Layers(network=()), timing_cache=None)


def built_wrong(model_bytes: bytes, api: EngineApi, **rest: Any) -> EngineBuild:
    """As `built_of`, by a library that gets the largest weight wrong."""
    model = onnx.load_from_string(model_bytes)
    largest = max(model.graph.initializer, key=lambda it: len(it.raw_data))
    values = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array(np.zeros_like(values), largest.name))
    return built_of(model.SerializeToString(), api, **rest)


def rebuilt(bundle: Path, api: EngineApi, build: Callable[..., EngineBuild] = built_of) -> Rebuilt:
    opened = open_bundle(bundle)
    return rebuild(opened, api, variants=buildable(opened, ("fp32",)), threads=1, build=build)


def hashes(bundle: Path) -> dict[str, str]:
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    return {str(path.relative_to(bundle)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_plan_is_tested_swapped_in_and_answers(bundle: Path, api: EngineApi) -> None:
    before = hashes(bundle)
    result = rebuilt(bundle, api)
    after = open_bundle(bundle)
    plan = after.variant("trt-fp32-sm90")
    assert (plan.path, plan.certified) == ("variants/trt-fp32-sm90/model.plan", ("tensorrt",))
    assert result.manifest_sha256 == after.manifest_sha256
    assert list(result.plans) == ["trt-fp32-sm90"]
    (deviation,) = result.selftest.deviations
    assert deviation.backend == "tensorrt 11.4.0.106"
    assert deviation.class_probs_max < plan.tolerance.class_probs_max
    now = hashes(bundle)
    assert {path: now[path] for path in before if path != "manifest.json"} == {
        path: digest for path, digest in before.items() if path != "manifest.json"
    }
    assert not [path for path in bundle.parent.iterdir() if path.name.startswith(".")]
    frame = np.zeros((128, 128, 3), np.uint8)
    with load(bundle, backend="tensorrt") as on_gpu, load(bundle, backend="onnxruntime", threads=1) as on_cpu:
        assert (on_gpu.choice.variant, on_cpu.choice.variant) == ("trt-fp32-sm90", "fp32")
        np.testing.assert_allclose(on_gpu(frame).class_probs, on_cpu(frame).class_probs, atol=1e-5)


def test_rebuilding_again_replaces_the_plan(bundle: Path, api: EngineApi) -> None:
    first = rebuilt(bundle, api)
    second = rebuilt(bundle, api)
    assert second.removed == ("trt-fp32-sm90",)
    assert second.manifest_sha256 == first.manifest_sha256


def test_auto_stays_on_the_cpu(bundle: Path, api: EngineApi) -> None:
    rebuilt(bundle, api)
    with load(bundle, threads=1) as session:
        assert session.choice.variant == "fp32"


@pytest.mark.parametrize(
    ("build", "error"),
    [
        pytest.param(built_wrong, ParityError, id="answers differ"),
        pytest.param(lambda *a, **k: built_of(*a, share="fp16", **k), BuildError, id="another precision"),
    ],
)
def test_a_plan_that_is_not_right_leaves_the_bundle_as_it_was(
    bundle: Path, api: EngineApi, build: Callable[..., EngineBuild], error: type[Exception]
) -> None:
    before = hashes(bundle)
    with pytest.raises(error):
        rebuilt(bundle, api, build)
    assert hashes(bundle) == before
    assert not [path for path in bundle.parent.iterdir() if path.name.startswith(".")]


def test_a_plan_whose_sidecar_speaks_of_another_machine_is_refused_before_the_library_sees_it(
    bundle: Path, api: EngineApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt(bundle, api)
    runtime = api.trt.Runtime
    monkeypatch.setattr(runtime, "deserialize_cuda_engine", lambda *_: pytest.fail("the library saw the plan"))
    other = fake_api(FakeDevice(), version="11.5.0")
    monkeypatch.setattr(tensorrt_, "load_engine_api", lambda _: other)
    with pytest.raises(IntegrityError, match=r"built for sm_90 with TensorRT 11\.4.*11\.5.*rebuild .*net\.spacepkg"):
        load(bundle, backend="tensorrt")


def test_a_plan_for_another_machine_is_not_tested_and_the_rest_of_the_bundle_is(
    bundle: Path, api: EngineApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rebuilt(bundle, api)
    other = fake_api(FakeDevice(), version="11.5.0")
    monkeypatch.setattr(tensorrt_, "load_engine_api", lambda _: other)
    seen: list[tuple[str, int, int]] = []
    result = run_selftest(open_bundle(bundle), threads=1, progress=lambda *step: seen.append(step))
    assert {deviation.variant for deviation in result.deviations} == {"fp32", "fp32-d4"}
    (plan,) = [item for item in result.not_tested if item.variant == "trt-fp32-sm90"]
    assert plan.backend == "tensorrt"
    assert "built for sm_90 with TensorRT 11.4" in plan.reason
    assert seen[-1][1] == seen[-1][2]
    for command in ("verify", "selftest"):
        assert main([command, str(bundle), "--threads", "1"]) == 0
        assert "trt-fp32-sm90 is not tested on tensorrt: built for sm_90" in capsys.readouterr().err
        assert main([command, str(bundle), "--backend", "tensorrt"]) == 7
        assert "spacecompile rebuild" in capsys.readouterr().err


def test_a_bundle_that_holds_nothing_but_a_damaged_plan_is_refused_under_auto_too(bundle: Path, api: EngineApi) -> None:
    rebuilt(bundle, api)
    sidecar = bundle / "variants/trt-fp32-sm90/model.plan.json"
    sidecar.write_bytes(sidecar.read_bytes()[:-2])
    with pytest.raises(IntegrityError, match="the manifest says"):
        run_selftest(open_bundle(bundle, verify=False), variant="trt-fp32-sm90")


def test_a_plan_that_was_changed_is_refused(bundle: Path, api: EngineApi) -> None:
    rebuilt(bundle, api)
    plan = bundle / "variants/trt-fp32-sm90/model.plan"
    plan.write_bytes(plan.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError, match="SHA-256"):
        load(bundle, backend="tensorrt")


def test_without_a_gpu_nothing_is_shipped_untested(bundle: Path, api: EngineApi) -> None:
    without = EngineApi(kind="tensorrt-rtx", trt=api.trt, version=api.version, cuda="13", device=None)
    with pytest.raises(MissingPartError, match="no GPU to test them on"):
        rebuilt(bundle, without)


def test_what_the_test_needs_is_asked_for_before_anything_is_built(
    bundle: Path, api: EngineApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "has_bindings", lambda: False)
    with pytest.raises(
        MissingPartError, match=r"cuda-bindings is not installed\. Add it with: pip install 'spacecompile\[tensorrt\]'"
    ):
        rebuilt(bundle, api, lambda *_, **__: pytest.fail("a plan was built"))


def test_a_disk_that_is_full_names_no_option_that_rebuild_lacks(
    bundle: Path, api: EngineApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        rebuilt(bundle, api)
    assert "--output" not in str(caught.value)


def test_a_plan_is_not_made_of_a_plan(bundle: Path, api: EngineApi) -> None:
    rebuilt(bundle, api)
    opened = open_bundle(bundle)
    assert "trt-fp32-sm90" not in {variant.name for variant in buildable(opened)}
    with pytest.raises(UsageError, match="no ONNX file"):
        buildable(opened, ("trt-fp32-sm90",))


def test_the_command_swaps_a_plan_in(
    bundle: Path, api: EngineApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine_api, "load_engine_api", lambda _: api)
    monkeypatch.setattr(rebuild_module.rebuild, "__kwdefaults__", {**rebuild.__kwdefaults__, "build": built_of})
    assert main(["rebuild", str(bundle), "--variant", "fp32", "--json", "-"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["manifest_sha256"] == open_bundle(bundle).manifest_sha256
    assert list(document["plans"]) == ["trt-fp32-sm90"]
    assert "self-test trt-fp32-sm90 on tensorrt 11.4.0.106" in shown.err


def test_the_command_says_what_is_missing_without_a_gpu(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, rtx: EngineApi, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine_api, "probe_cuda", lambda: CudaProbe(device=None, problem="there is no driver"))
    before = hashes(bundle)
    assert main(["rebuild", str(bundle), "--engine", "tensorrt-rtx"]) == 3
    assert "no GPU to test them on" in capsys.readouterr().err
    assert hashes(bundle) == before


def test_a_bundle_behind_a_link_is_changed_where_it_lies(bundle: Path, api: EngineApi) -> None:
    link = bundle.with_name("link.spacepkg")
    link.symlink_to(bundle)
    opened = open_bundle(link)
    rebuild(opened, api, variants=buildable(opened, ("fp32",)), build=built_of, threads=1)
    assert link.is_symlink()
    assert open_bundle(bundle).variant("trt-fp32-sm90")
