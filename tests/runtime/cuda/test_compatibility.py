from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from fake_tensorrt import sidecar_of
from onnx import TensorProto, helper

from spacecompile.errors import IntegrityError
from spacecompile.export.engine.build_plan import build_engine
from spacecompile.runtime.cuda.compatibility import PlanFacts, check_plan_bytes, check_plan_fits, facts_from_sidecar
from spacecompile.runtime.cuda.driver import GpuFacts
from spacecompile.runtime.cuda.engine_api import EngineApi

PLAN = b"a plan"
H200 = GpuFacts(gpu="NVIDIA H200", compute_capability="9.0", cuda="13.1", driver="590.1")


def facts_with(**changes: Any) -> PlanFacts:
    return facts_from_sidecar(sidecar_of(PLAN, **changes), "model.plan.json")


def check(facts: PlanFacts, *, engine: str = "tensorrt", version: str = "11.4.0.106", gpu: GpuFacts = H200) -> None:
    check_plan_fits(
        facts, engine=engine, library_version=version, gpu=gpu, frame_size_px=(96, 128), bundle="net.spacepkg"
    )


def test_a_plan_of_this_machine_fits() -> None:
    check(facts_with())


def test_the_sentence_says_what_it_was_built_for_what_this_is_and_what_to_run() -> None:
    facts = facts_with(library_version="10.3.0", compute_capability="8.7", target="sm87")
    with pytest.raises(IntegrityError) as caught:
        check(facts, version="11.2.0")
    assert str(caught.value) == (
        "built for sm_87 with TensorRT 10.3.0, this is sm_90 with TensorRT 11.2.0: "
        "run `spacecompile rebuild net.spacepkg`."
    )


COMPATIBLE = {"version_compatible": True, "hardware_compatibility": "none"}
AMPERE = {"version_compatible": False, "hardware_compatibility": "ampere-plus"}


@pytest.mark.parametrize(
    ("changes", "here", "fits"),
    [
        pytest.param({"library_version": "11.4.1"}, {}, False, id="another patch version"),
        pytest.param({"options": COMPATIBLE, "library_version": "11.1.0"}, {}, True, id="an earlier minor version"),
        pytest.param({"options": COMPATIBLE, "library_version": "11.9.0"}, {}, False, id="a later minor version"),
        pytest.param({"options": COMPATIBLE, "library_version": "10.12.0"}, {}, False, id="another major version"),
        pytest.param({"compute_capability": "8.9"}, {}, False, id="another GPU"),
        pytest.param({"options": AMPERE, "compute_capability": "8.6"}, {}, True, id="ampere-plus"),
        pytest.param(
            {"options": AMPERE, "compute_capability": "8.6"},
            {"gpu": GpuFacts(gpu="T4", compute_capability="7.5", cuda="13.1")},
            False,
            id="ampere-plus on Turing",
        ),
        pytest.param({"engine": "tensorrt-rtx"}, {}, False, id="another library"),
        pytest.param(
            {"engine": "tensorrt-rtx", "target": "sm80-and-later"}, {"engine": "tensorrt-rtx"}, True, id="RTX portable"
        ),
        pytest.param(
            {"engine": "tensorrt-rtx", "target": "sm86+sm90"}, {"engine": "tensorrt-rtx"}, True, id="RTX in the list"
        ),
        pytest.param(
            {"engine": "tensorrt-rtx", "target": "sm86+sm89"}, {"engine": "tensorrt-rtx"}, False, id="RTX not in it"
        ),
        pytest.param({"cuda": "13.0"}, {}, True, id="a newer driver"),
        pytest.param({"cuda": "14.0"}, {}, False, id="an older driver"),
        pytest.param({"profile": {"frame": [128, 128, 3]}}, {}, False, id="another frame size"),
        pytest.param({"profile": {}}, {}, False, id="no profile"),
    ],
)
def test_a_plan_for_another_machine_is_refused_with_the_command(
    changes: dict[str, Any], here: dict[str, Any], fits: bool
) -> None:
    facts = facts_with(**changes)
    if fits:
        check(facts, **here)
    else:
        with pytest.raises(IntegrityError, match=r"run `spacecompile rebuild net\.spacepkg( --engine tensorrt-rtx)?`"):
            check(facts, **here)


def test_bytes_that_the_sidecar_does_not_speak_of_are_refused() -> None:
    check_plan_bytes(PLAN, facts_with(), bundle="net.spacepkg")
    with pytest.raises(IntegrityError, match="damaged or of another build"):
        check_plan_bytes(PLAN[:-1] + b"m", facts_with(), bundle="net.spacepkg")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"engine": 3}'], ids=["empty", "cut", "a list", "a number"])
def test_a_malformed_sidecar_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError, match="malformed"):
        facts_from_sidecar(content, "model.plan.json")


def test_a_field_of_a_later_builder_is_no_obstacle() -> None:
    content = json.loads(sidecar_of(PLAN)) | {"invented_later": [1]}
    assert facts_from_sidecar(json.dumps(content).encode(), "model.plan.json").engine == "tensorrt"


def test_the_sidecar_that_a_build_writes_is_read(rtx: EngineApi) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["frame"], ["y"], to=TensorProto.FLOAT)],
        "cast",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, [96, 128, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [96, 128, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    built = build_engine(model.SerializeToString(), rtx)
    facts = facts_from_sidecar(msgspec.json.encode(built.facts), "model.plan.json")
    check_plan_bytes(built.plan, facts, bundle="net.spacepkg")
    check(facts, engine="tensorrt-rtx", version=rtx.version)
    assert facts.target == "sm80-and-later"


def test_a_plan_of_rtx_names_the_library_that_rebuilds_it() -> None:
    facts = facts_with(engine="tensorrt-rtx", target="sm86")
    with pytest.raises(IntegrityError, match=r"`spacecompile rebuild net\.spacepkg --engine tensorrt-rtx`"):
        check(facts, engine="tensorrt-rtx")
    with pytest.raises(IntegrityError, match=r"`spacecompile rebuild net\.spacepkg --engine tensorrt-rtx`"):
        check_plan_bytes(b"another", facts, bundle="net.spacepkg")
