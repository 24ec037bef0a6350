from __future__ import annotations

from dataclasses import replace

import pytest

from spacecompile.contract import FP32_TOLERANCE, Variant
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.runtime.backends.registry import BACKENDS, choose_backend

ONNX = Variant(name="fp32", precision="fp32", tta="none", path="v/model.onnx", opset=20, tolerance=FP32_TOLERANCE)
PLAN = Variant(name="fp32", precision="fp32", tta="none", path="v/model.plan", opset=20, tolerance=FP32_TOLERANCE)

PRESENT = BACKENDS[0]
ABSENT = replace(PRESENT, name="absent", missing=lambda: "no such engine here", remedy="pip install absent")


def test_onnx_runtime_is_present_in_the_base_install() -> None:
    assert PRESENT.name == "onnxruntime"
    assert PRESENT.missing() is None


def test_auto_takes_the_first_present_backend_and_says_what_it_passed_over() -> None:
    entry, reason = choose_backend("auto", ONNX, backends=(ABSENT, PRESENT))
    assert entry is PRESENT
    assert "passed over absent (no such engine here; add it with: pip install absent)" in reason


def test_a_named_backend_is_taken() -> None:
    assert choose_backend("onnxruntime", ONNX) == (PRESENT, "asked for by name")


def test_a_named_backend_that_is_missing_is_never_replaced() -> None:
    with pytest.raises(MissingPartError, match=r"no such engine here\. Add it with: pip install absent"):
        choose_backend("absent", ONNX, backends=(PRESENT, ABSENT))


def test_auto_without_any_present_backend_names_the_commands() -> None:
    with pytest.raises(MissingPartError, match="pip install absent"):
        choose_backend("auto", ONNX, backends=(ABSENT,))


@pytest.mark.parametrize(
    ("requested", "variant", "message"),
    [
        ("tensorflow", ONNX, "choose one of auto, onnxruntime"),
        ("onnxruntime", PLAN, "does not run v/model.plan"),
        ("auto", PLAN, "no backend runs v/model.plan"),
    ],
    ids=["unknown name", "named, wrong kind of file", "auto, wrong kind of file"],
)
def test_what_can_not_run_is_refused(requested: str, variant: Variant, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_backend(requested, variant)
