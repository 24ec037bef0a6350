from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from spacecompile.contract import FP32_TOLERANCE, Variant
from spacecompile.errors import IntegrityError, MissingPartError, SpacecompileError, UsageError
from spacecompile.runtime.backend import Backend
from spacecompile.runtime.backends.registry import (
    BACKENDS,
    BackendEntry,
    BackendFactory,
    certified_present,
    choose_backend,
    entry_named,
    expected_ratio,
    open_backend,
)

ONNX = Variant(name="fp32", precision="fp32", tta="none", path="v/model.onnx", opset=20, tolerance=FP32_TOLERANCE)
PLAN = msgspec.structs.replace(ONNX, path="v/model.plan")
BOTH = msgspec.structs.replace(ONNX, certified=("onnxruntime", "openvino"))
BF16 = msgspec.structs.replace(ONNX, name="bf16", precision="bf16", certified=("openvino",))

ORT, OPENVINO = (replace(entry, missing=lambda: None) for entry in BACKENDS[:2])
ABSENT = replace(OPENVINO, missing=lambda: "no such engine here")
XEON = frozenset({"avx512f", "avx512_bf16", "amx_bf16"})
ADD_IT = "add it with: pip install 'spacecompile[openvino]'"


def test_onnx_runtime_is_present_in_the_base_install() -> None:
    assert BACKENDS[0].name == "onnxruntime"
    assert BACKENDS[0].missing() is None


@pytest.mark.parametrize(
    ("variant", "backends", "features", "chosen", "reason"),
    [
        (ONNX, (ORT, OPENVINO), XEON, ORT, "auto: the one backend here that is certified for fp32"),
        (
            *(BOTH, (ORT, OPENVINO), XEON, OPENVINO),
            "auto: the fastest certified for fp32 on a CPU like this, by measured time per frame: "
            "openvino 0.83, onnxruntime 1.0",
        ),
        (
            *(BOTH, (ORT, OPENVINO), frozenset({"avx2"}), ORT),
            "auto: the fastest certified for fp32 on a CPU like this, by measured time per frame: "
            "onnxruntime 1.0, openvino not measured",
        ),
        (
            *(msgspec.structs.replace(BOTH, precision="int8"), (ORT, OPENVINO), frozenset(), ORT),
            "auto: the first that is certified for fp32, of onnxruntime, openvino; none was measured on a CPU like "
            "this",
        ),
        (
            *(BOTH, (ORT, ABSENT), XEON, ORT),
            "auto: the one backend here that is certified for fp32; passed over openvino (no such engine here; "
            f"{ADD_IT})",
        ),
        (
            *(BOTH, (ORT, ABSENT), frozenset(), ORT),
            "auto: the one backend here that is certified for fp32",
        ),
        (BF16, (ORT, OPENVINO), XEON, OPENVINO, "auto: the one backend here that is certified for bf16"),
    ],
    ids=[
        "one is certified",
        "the faster one",
        "what was measured goes before what was not",
        "nothing was measured",
        "the faster one is missing",
        "a slower one is missing",
        "bf16",
    ],
)
def test_auto_takes_the_fastest_certified_one_that_is_here_and_says_why(
    variant: Variant,
    backends: tuple[BackendEntry, ...],
    features: frozenset[str],
    chosen: BackendEntry,
    reason: str,
) -> None:
    assert choose_backend("auto", variant, backends=backends, features=features) == (chosen, reason)


def test_the_order_of_the_table_does_not_matter_where_speeds_are_known() -> None:
    for backends in ((ORT, OPENVINO), (OPENVINO, ORT)):
        assert choose_backend("auto", BOTH, backends=backends, features=XEON)[0] is OPENVINO


def test_a_named_backend_is_taken() -> None:
    assert choose_backend("onnxruntime", BOTH, backends=(ORT, OPENVINO)) == (ORT, "asked for by name")


def test_a_named_backend_without_a_certificate_runs_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    entry, reason = choose_backend("openvino", ONNX, backends=(ORT, OPENVINO))
    assert entry is OPENVINO
    assert reason == "asked for by name; the variant is not certified on it, only on onnxruntime"
    assert "variant fp32 is not certified on openvino, only on onnxruntime" in caplog.text


def test_a_named_backend_that_is_missing_is_never_replaced() -> None:
    with pytest.raises(MissingPartError, match=r"no such engine here\. Add it with: pip install 'spacecompile\[open"):
        choose_backend("openvino", BOTH, backends=(ORT, ABSENT))


def test_auto_without_any_present_backend_names_the_commands() -> None:
    with pytest.raises(MissingPartError, match="add it with: pip install 'spacecompile"):
        choose_backend("auto", BF16, backends=(ORT, ABSENT))


@pytest.mark.parametrize(
    ("requested", "variant", "message"),
    [
        ("tensorflow", ONNX, "choose one of auto, onnxruntime, openvino"),
        ("onnxruntime", PLAN, "does not run v/model.plan"),
        ("onnxruntime", BF16, "backend onnxruntime does not run v/model.onnx in bf16"),
        ("auto", PLAN, "no backend runs v/model.plan"),
        ("auto", msgspec.structs.replace(ONNX, certified=()), "certified on none"),
        ("auto", msgspec.structs.replace(ONNX, certified=("caffe",)), "certified on caffe"),
    ],
    ids=["unknown name", "named, wrong file", "named, wrong precision", "auto, wrong file", "none", "unknown one"],
)
def test_what_can_not_run_is_refused(requested: str, variant: Variant, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_backend(requested, variant, backends=(ORT, OPENVINO))


@pytest.mark.parametrize(
    ("requested", "variant", "backends", "features", "expected"),
    [
        ("auto", BOTH, (ORT, OPENVINO), XEON, 0.83),
        ("auto", BOTH, (ORT, ABSENT), XEON, 1.0),
        ("auto", ONNX, (ORT, OPENVINO), XEON, 1.0),
        ("onnxruntime", BOTH, (ORT, OPENVINO), XEON, 1.0),
        ("onnxruntime", BF16, (ORT, OPENVINO), XEON, None),
        ("auto", BF16, (ORT, OPENVINO), XEON, 0.51),
        ("auto", BF16, (ORT, OPENVINO), frozenset({"avx2"}), None),
        ("auto", BF16, (ORT, ABSENT), XEON, None),
    ],
    ids=[
        *("fastest", "fastest present", "only certified", "named", "named, not certified", "bf16 with AMX"),
        *("bf16 without AMX", "bf16 without OpenVINO"),
    ],
)
def test_a_variants_speed_is_that_of_the_backend_it_would_get(
    requested: str,
    variant: Variant,
    backends: tuple[BackendEntry, ...],
    features: frozenset[str],
    expected: float | None,
) -> None:
    assert expected_ratio(requested, variant, backends=backends, features=features) == expected


def test_the_speed_on_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UsageError, match="choose one of auto"):
        expected_ratio("tensorflow", ONNX)


def test_certified_and_present_are_both_needed() -> None:
    assert certified_present(BOTH, backends=(ORT, OPENVINO)) == ("onnxruntime", "openvino")
    assert certified_present(BOTH, backends=(ORT, ABSENT)) == ("onnxruntime",)
    assert certified_present(ONNX, backends=(ORT, OPENVINO)) == ("onnxruntime",)
    assert certified_present(BF16, backends=(ORT, ABSENT)) == ()


def failing(entry: BackendEntry, error: SpacecompileError) -> BackendEntry:
    def factory() -> BackendFactory:
        raise error

    return replace(entry, factory=factory)


def open_both(requested: str, *backends: BackendEntry, graph: bytes) -> tuple[Backend, str]:
    def make(factory: BackendFactory) -> Backend:
        return factory(graph, threads=1, precision="fp32", spinning=False, cache=False)

    return open_backend(requested, BOTH, make=make, backends=backends, features=XEON)


@pytest.mark.parametrize(
    "error",
    [MissingPartError("openvino can't be imported."), IntegrityError("OpenVINO refuses the graph.")],
    ids=["unusable", "refuses the graph"],
)
def test_auto_goes_on_to_the_next_certified_one_where_a_name_is_strict(
    error: SpacecompileError, make_graph: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    broken = failing(OPENVINO, error)
    engine, reason = open_both("auto", ORT, broken, graph=make_graph())
    assert engine.name == "onnxruntime"
    assert reason.endswith(f"; passed over openvino ({error})")
    assert f"backend openvino is passed over for variant fp32: {error}" in caplog.text
    with pytest.raises(type(error), match=str(error)):
        open_both("openvino", ORT, broken, graph=make_graph())


def test_auto_fails_when_no_certified_one_is_left(make_graph: Callable[..., bytes]) -> None:
    broken = failing(OPENVINO, MissingPartError("first"))
    with pytest.raises(IntegrityError, match=r"ONNX Runtime .* refuses the graph"):
        open_both("auto", ORT, broken, graph=b"no graph")
    with pytest.raises(MissingPartError, match="first"):
        open_both("auto", replace(ORT, missing=lambda: "gone"), broken, graph=make_graph())


@pytest.mark.parametrize(
    ("name", "module", "command"),
    [
        pytest.param("onnxruntime", "onnxruntime_", "--force-reinstall onnxruntime$", id="onnxruntime"),
        pytest.param("openvino", "openvino_", "--force-reinstall openvino$", id="openvino"),
        pytest.param("tensorrt", "tensorrt_", "--force-reinstall tensorrt cuda-bindings$", id="tensorrt"),
        pytest.param("tensorrt-rtx", "tensorrt_", "--force-reinstall tensorrt-rtx cuda-bindings$", id="tensorrt-rtx"),
        pytest.param(
            "onnxruntime-cuda", "onnxruntime_cuda_", "--force-reinstall --no-deps onnxruntime-gpu && ", id="CUDA"
        ),
    ],
)
def test_an_engine_that_can_not_be_imported_is_answered_with_the_command_that_installs_it_again(
    name: str, module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"spacecompile.runtime.backends.{module}", None)
    with pytest.raises(MissingPartError, match=command):
        entry_named(name).factory()
