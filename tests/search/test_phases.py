from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("ray", reason="needs the search extra")

from spacecompile.errors import UsageError
from spacecompile.search import phases as phases_module
from spacecompile.search.phases import PHASES, search_hyperparameters
from spacecompile.search.results import Outcome
from spacecompile.search.study import SearchJob, prepare
from spacecompile.search.trial import TrialSetup
from spacecompile.search.tuning import TuneOptions
from spacecompile.train.named_recipes import NamedRecipe, named_recipes, recipe_named
from spacecompile.train.recipe import Recipe


@pytest.mark.parametrize("recipe", list(named_recipes()))
@pytest.mark.parametrize("phase", list(PHASES))
def test_every_candidate_is_sound_has_a_name_of_its_own_and_keeps_what_the_phase_does_not_vary(
    phase: str, recipe: str
) -> None:
    base = recipe_named(recipe)
    candidates = PHASES[phase](base)
    assert len({candidate.name for candidate in candidates}) == len(candidates) >= 2
    for candidate in candidates:
        spec = candidate.model_spec()
        assert (spec.encoder, spec.part_head) == (base.model_spec().encoder, base.model_spec().part_head)
        if phase != "width-and-resolution":
            assert spec == base.model_spec()
        if phase in ("width-and-resolution", "augmentation-and-losses"):
            assert candidate.recipe.lr == base.recipe.lr


def test_the_four_phases_are_in_the_posts_order() -> None:
    assert list(PHASES) == ["learning-rate", "width-and-resolution", "augmentation-and-losses", "refinement"]


@pytest.mark.parametrize("phase", list(PHASES))
def test_what_the_phase_began_with_is_a_candidate_too(phase: str) -> None:
    """So that a phase never ends worse than it began."""
    base = recipe_named("post")
    assert any(
        (candidate.model_spec(), candidate.recipe) == (base.model_spec(), base.recipe)
        for candidate in PHASES[phase](base)
    )


def test_width_and_resolution_vary_one_at_a_time() -> None:
    names = {
        candidate.name: candidate.model_spec() for candidate in PHASES["width-and-resolution"](NamedRecipe(name="a"))
    }
    assert list(names) == ["as-before", "width-64", "width-256", "input-768"]
    assert names["width-64"].decoder_options == {"decoder_segmentation_channels": 64}
    assert names["input-768"].input_size_px == (768, 768)
    assert names["input-768"].decoder_options == {"decoder_segmentation_channels": 128}


def test_a_decoder_without_one_width_varies_the_resolution_only() -> None:
    base = NamedRecipe(name="a", spec={"architecture": "Unet", "decoder_options": {}, "input_size_px": [96, 64]})
    names = {candidate.name: candidate.model_spec() for candidate in PHASES["width-and-resolution"](base)}
    assert list(names) == ["as-before", "input-128"]
    assert names["input-128"].input_size_px == (128, 96)


def test_what_was_carried_forward_stays() -> None:
    base = recipe_named("post")
    tuned = PHASES["learning-rate"](base)[-2]
    assert tuned.recipe.lr == 4 * base.recipe.lr
    wide = PHASES["width-and-resolution"](tuned)[2]
    assert wide.recipe.lr == tuned.recipe.lr
    heavy = PHASES["augmentation-and-losses"](wide)[0]
    assert heavy.spec["decoder_options"] == wide.spec["decoder_options"]
    assert heavy.recipe == msgspec.structs.replace(wide.recipe, augment="none")


@pytest.mark.parametrize("options", [{}, {"decoder_segmentation_channels": 256}], ids=["default", "given"])
def test_the_width_at_hand_is_not_trained_twice(options: dict[str, int]) -> None:
    base = NamedRecipe(name="a", spec={"architecture": "Segformer", "decoder_options": options})
    names = [candidate.name for candidate in PHASES["width-and-resolution"](base)]
    assert names == ["as-before", "width-64", "width-128", "input-768"]


@pytest.mark.parametrize(
    ("begun", "retried"),
    [
        pytest.param([], [True, True], id="new"),
        pytest.param(["learning-rate"], [True, True], id="first begun"),
        pytest.param(["learning-rate", "refinement"], [False, True], id="second begun"),
    ],
)
def test_failed_candidates_are_not_tried_again_once_a_later_phase_came_of_the_best(
    begun: list[str], retried: list[bool], search_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def noted(candidates: Sequence[NamedRecipe], job: SearchJob, **_: Any) -> tuple[Outcome, ...]:
        seen.append(job.options.retry_failed)
        if len(seen) == len(retried):
            raise KeyboardInterrupt
        return tuple(Outcome(candidate=candidate, status="done") for candidate in candidates)

    monkeypatch.setattr(phases_module, "train_all", noted)
    monkeypatch.setattr(phases_module, "require_best", lambda outcomes: outcomes[0])
    output, phases = tmp_path / "out", ("learning-rate", "refinement")
    job = SearchJob(output=output, setup=TrialSetup(data=str(search_data)), options=TuneOptions(folder=output / "tune"))
    base = msgspec.structs.replace(recipe_named("post"), recipe=Recipe(batch_size=8))
    prepare(job, (base,), phases=phases)
    for name in begun:
        (output / "tune" / name).mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        search_hyperparameters(base, replace(job, options=replace(job.options, resume=True)), phases=phases)
    assert seen == retried


@pytest.mark.parametrize(
    ("phases", "seen"),
    [
        pytest.param(("refinement", "refinement"), "refinement comes twice", id="twice"),
        pytest.param(("luck",), "no phase is named 'luck'", id="unknown"),
    ],
)
def test_phases_are_refused_before_a_folder_is_made(phases: tuple[str, ...], seen: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = SearchJob(output=output, setup=TrialSetup(data="nowhere"), options=TuneOptions(folder=output / "tune"))
    with pytest.raises(UsageError, match=seen):
        search_hyperparameters(recipe_named("post"), job, phases=phases)
    assert not output.exists()
