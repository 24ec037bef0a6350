"""The committed fingerprints of smp's and timm's encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm

from spacecompile.network.foreign import encoders as encoder_index
from spacecompile.network.foreign.encoders import (
    DEPTHS,
    all_encoder_names,
    build_encoder,
    encoders_like,
    fingerprint,
    index_lines,
    shapes_of,
)

INDEX = Path(encoder_index.__file__).with_name("encoders.txt")
LINES = INDEX.read_text(encoding="utf-8").splitlines()


def test_a_fingerprint_depends_on_names_and_shapes_and_not_on_their_order() -> None:
    shapes = {"a": (1, 2), "b": (3,)}
    assert fingerprint(shapes) == fingerprint(dict(reversed(shapes.items())))
    assert len({fingerprint(other) for other in (shapes, {"a": (1, 2)}, {"a": (2, 1), "b": (3,)}, {})}) == 4


def test_batch_norm_s_counters_do_not_count() -> None:
    shapes = shapes_of(build_encoder("tu-test_resnet", 3).state_dict())
    assert shapes
    assert not any(key.endswith("num_batches_tracked") for key in shapes)


def test_an_encoder_is_built_without_memory_for_its_weights() -> None:
    # Its constructor computes rates of stochastic depth, which fails under `torch.device("meta")`.
    encoder = build_encoder("mit_b0", 5)
    assert {str(parameter.device) for parameter in encoder.parameters()} == {"meta"}


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_encoder_that_loses_stages_is_found_at_its_depth(depth: int) -> None:
    found = encoders_like(shapes_of(build_encoder("tu-repvit_m0_9", depth).state_dict()))
    assert found[0] == ("tu-repvit_m0_9", (depth,))


def test_an_encoder_that_keeps_all_stages_may_have_any_depth() -> None:
    assert encoders_like(shapes_of(build_encoder("resnet18", 3).state_dict())) == (("resnet18", DEPTHS),)


def test_an_unknown_encoder_is_not_found() -> None:
    assert encoders_like({"conv.weight": (8, 3, 3, 3)}) == ()


def test_the_index_is_of_the_installed_versions_and_names_each_encoder_once() -> None:
    assert f"segmentation_models_pytorch {smp.__version__} and timm {timm.__version__};" in LINES[0]
    names = [line.split()[0] for line in LINES[1:]]
    assert len(names) == len(set(names)) > 500
    assert set(names) <= set(all_encoder_names())
    assert set(smp.encoders.get_encoder_names()) <= set(names)


@pytest.mark.parametrize("name", ["mobileone_s1", "densenet121", "tu-resnet50", "tu-test_resnet", "tu-efficientvit_b1"])
def test_the_index_says_what_building_says(name: str) -> None:
    assert list(index_lines([name])) == [line for line in LINES if line.startswith(f"{name} ")]


def test_an_encoder_that_smp_can_not_use_has_no_line() -> None:
    assert list(index_lines(["tu-vit_tiny_patch16_224", "no_such"])) == []
