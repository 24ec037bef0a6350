from __future__ import annotations

import pytest

from spacecompile.contract import Precision
from spacecompile.errors import BuildError
from spacecompile.export.engine.plan_facts import (
    LayerFact,
    NetworkTensor,
    RealisedTypes,
    realised_types,
    require_precision,
)


def layer(kind: str, *types: str, computes_in: str | None = None) -> LayerFact:
    outputs = tuple(NetworkTensor(name=f"t{index}", type=name, shape=(1,)) for index, name in enumerate(types))
    return LayerFact(name="a layer", kind=kind, outputs=outputs, computes_in=computes_in)


def types_of(**shares: float) -> RealisedTypes:
    return RealisedTypes(layers={}, compute_layers={}, compute_shares=shares)


def test_types_are_counted_by_layer() -> None:
    layers = (
        layer("CONVOLUTION", "fp16", computes_in="fp16"),
        layer("MATRIX_MULTIPLY", "fp16", computes_in="fp16"),
        layer("CONVOLUTION", "fp32", computes_in="int8"),
        layer("SOFTMAX", "fp32"),
        layer("ASSERTION"),
    )
    types = realised_types(layers, {"Row major linear FP16 format": 3})
    assert types.layers == {"fp16": 2, "fp32": 2}
    assert types.compute_layers == {"fp16": 2, "int8": 1}
    assert types.compute_shares == {"fp16": 2 / 3, "int8": 1 / 3}
    assert types.engine_formats == {"Row major linear FP16 format": 3}


@pytest.mark.parametrize(
    ("precision", "shares"),
    [
        ("fp32", {"fp32": 1.0}),
        ("fp16", {"fp16": 0.9, "fp32": 0.1}),
        ("bf16", {"bf16": 1.0}),
        ("int8", {"int8": 0.5, "fp32": 0.5}),
    ],
)
def test_a_plan_may_be_what_its_variant_says(precision: Precision, shares: dict[str, float]) -> None:
    require_precision(types_of(**shares), precision, variant="a variant")


@pytest.mark.parametrize(
    ("precision", "shares"),
    [
        ("fp32", {"fp32": 0.9, "fp16": 0.1}),
        ("fp16", {"fp16": 0.75, "fp32": 0.25}),
        ("int8", {"int8": 0.25, "fp32": 0.75}),
        ("fp16", {}),
        ("bf16", {"fp32": 1.0}),
        ("int8", {"fp32": 1.0}),
    ],
)
def test_a_plan_that_is_not_what_its_variant_says_is_refused(precision: Precision, shares: dict[str, float]) -> None:
    with pytest.raises(BuildError, match=f"variant {precision}-d4 is {precision}, but its convolutions"):
        require_precision(types_of(**shares), precision, variant=f"{precision}-d4")
