from __future__ import annotations

from dataclasses import replace

import pytest

from spacecompile.errors import UsageError
from spacecompile.export.engine.options import check_options, configure, stored_timing_cache, target_of
from spacecompile.export.engine.plan_facts import EngineOptions
from spacecompile.runtime.cuda.driver import GpuFacts
from spacecompile.runtime.cuda.engine_api import EngineApi, EngineKind, logger_of

ORIN = GpuFacts(gpu="Orin", compute_capability="8.7", cuda="12.6")


@pytest.mark.parametrize(
    ("kind", "options", "timing_cache", "message"),
    [
        pytest.param(
            "tensorrt-rtx", EngineOptions(version_compatible=True), False, "--version-compatible", id="version"
        ),
        pytest.param(
            "tensorrt-rtx", EngineOptions(hardware_compatibility="ampere-plus"), False, "--hardware-comp", id="hardware"
        ),
        pytest.param("tensorrt-rtx", EngineOptions(), True, "--timing-cache: it measures nothing", id="timing cache"),
        pytest.param(
            "tensorrt", EngineOptions(compute_capabilities=("8.9",)), False, "--compute-capability: it builds", id="GPU"
        ),
        pytest.param(
            "tensorrt-rtx",
            EngineOptions(compute_capabilities=("9.0",)),
            False,
            "capability 9.0; it knows 7.5, 8.0, 8.6",
            id="unknown GPU",
        ),
    ],
)
def test_an_option_that_a_library_does_not_have_is_named(
    rtx: EngineApi, kind: EngineKind, options: EngineOptions, timing_cache: bool, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_options(replace(rtx, kind=kind), options, timing_cache=timing_cache)


@pytest.mark.parametrize("capability", ["89", "8.x", "", "8.9.1", "-8.9"])
def test_a_malformed_compute_capability_is_refused(rtx: EngineApi, capability: str) -> None:
    with pytest.raises(UsageError, match=r"give MAJOR\.MINOR"):
        check_options(rtx, EngineOptions(compute_capabilities=(capability,)), timing_cache=False)


@pytest.mark.parametrize("numbers", [{"workspace_bytes": 0}, {"optimization_level": 6}, {"optimization_level": -1}])
def test_a_number_out_of_range_is_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"workspace|level"):
        EngineOptions(**numbers)


@pytest.mark.parametrize(
    ("kind", "options", "target"),
    [
        pytest.param("tensorrt", EngineOptions(), "sm87", id="the GPU here"),
        pytest.param("tensorrt", EngineOptions(hardware_compatibility="same-compute-capability"), "sm87", id="same"),
        pytest.param("tensorrt", EngineOptions(hardware_compatibility="ampere-plus"), "ampere-plus", id="many GPUs"),
        pytest.param("tensorrt-rtx", EngineOptions(), "sm80-and-later", id="portable"),
        pytest.param("tensorrt-rtx", EngineOptions(compute_capabilities=("12.0", "8.6")), "sm86+sm120", id="chosen"),
    ],
)
def test_a_plan_is_named_after_what_it_runs_on(
    rtx: EngineApi, kind: EngineKind, options: EngineOptions, target: str
) -> None:
    assert target_of(replace(rtx, kind=kind, device=ORIN), options) == target


def test_the_options_reach_the_configuration(rtx: EngineApi) -> None:
    trt = rtx.trt
    builder = trt.Builder(logger_of(trt))
    config = builder.create_builder_config()
    assert config.get_flag(trt.BuilderFlag.TF32)
    options = EngineOptions(workspace_bytes=1 << 20, optimization_level=1, compute_capabilities=("8.9", "12.0"))
    configure(config, rtx, options, None)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 20
    assert config.builder_optimization_level == 1
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    chosen = [config.get_compute_capability(index).name for index in range(config.num_compute_capabilities)]
    assert chosen == ["SM89", "SM120"]
    assert not config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    # The library itself can't build with it, but keeps the flag: full TensorRT's way through the same call.
    configure(config, rtx, EngineOptions(version_compatible=True), None)
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def test_a_timing_cache_goes_in_and_comes_out(rtx: EngineApi) -> None:
    builder = rtx.trt.Builder(logger_of(rtx.trt))
    config = builder.create_builder_config()
    # TensorRT-RTX has the calls of full TensorRT and says that they do nothing, which is why the option is refused.
    with pytest.warns(DeprecationWarning, match="no-ops in TensorRT-RTX"):
        configure(config, rtx, EngineOptions(), b"")
        assert stored_timing_cache(config)
