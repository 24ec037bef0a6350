from __future__ import annotations

import pytest

from spacecompile.errors import CheckpointError, UsageError
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.search.candidates import POST_DECODERS, POST_ENCODERS, candidates_of, pair_from_text, pairs
from spacecompile.train.recipe import Recipe

RECIPE = Recipe(lr=1e-3)


def test_at_least_15_of_the_posts_combinations_are_built_by_smp() -> None:
    candidates = candidates_of(pairs(POST_DECODERS, POST_ENCODERS), recipe=RECIPE, spec={"input_size_px": [128, 128]})
    assert len(candidates) == 21
    refused = []
    for candidate in candidates:
        try:
            MultiTaskNetwork(candidate.model_spec())
        except CheckpointError:
            refused.append(candidate.name)
    assert refused == ["Linknet-mit_b0"]


def test_all_candidates_share_one_recipe_and_the_sizes_asked_for() -> None:
    spec = {"input_size_px": [96, 96]}
    candidates = candidates_of([("Unet", "tu-hgnetv2_b0")], recipe=RECIPE, spec=spec, named=["efficientvit-b1-s16-768"])
    assert {candidate.recipe for candidate in candidates} == {RECIPE}
    assert {candidate.model_spec().input_size_px for candidate in candidates} == {(96, 96)}
    assert [candidate.model_spec().encoder for candidate in candidates] == ["tu-hgnetv2_b0", "tu-efficientvit_b1"]


def test_pspnet_has_the_three_stages_that_smp_gives_it() -> None:
    (candidate,) = candidates_of([("PSPNet", "mit_b0")], recipe=RECIPE, spec={})
    assert candidate.model_spec().encoder_depth == 3


@pytest.mark.parametrize(
    ("chosen", "named", "seen"),
    [
        pytest.param([], [], "no network", id="nothing"),
        pytest.param([("Unet", "mit_b0")] * 2, [], "Unet-mit_b0 would be trained twice", id="twice"),
        pytest.param([], ["best"], "no recipe is named 'best'", id="unknown recipe"),
    ],
)
def test_what_can_not_be_compared_is_refused(chosen: list[tuple[str, str]], named: list[str], seen: str) -> None:
    with pytest.raises(UsageError, match=seen):
        candidates_of(chosen, recipe=RECIPE, spec={}, named=named)


@pytest.mark.parametrize("text", ["Unet", "Unet:", ":mit_b0", ""])
def test_a_pair_needs_both_names(text: str) -> None:
    with pytest.raises(UsageError, match="ARCHITECTURE:ENCODER"):
        pair_from_text(text)


def test_a_pair_may_have_spaces() -> None:
    assert pair_from_text(" FPN : tu-resnet18 ") == ("FPN", "tu-resnet18")
