"""Named recipes: every one builds, counts, and trains a step."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from spacecompile.cli.flags.recipe import with_recipe
from spacecompile.contract import ModelSpec
from spacecompile.errors import UsageError
from spacecompile.network.count import cost_of
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train.frames.dataset import Batch
from spacecompile.train.losses import multi_task_losses
from spacecompile.train.named_recipes import NamedRecipe, named_recipes, recipe_named
from spacecompile.train.optimise import optimizer_of
from spacecompile.train.recipe import Recipe

NAMES = tuple(named_recipes())
# Sizes differ in the input only: one of each pair trains the step.
NETWORKS = tuple(name for name in NAMES if not name.endswith("-768"))


def batch_of(side_px: int) -> Batch:
    pixels_NCHW = torch.zeros(2, 5, side_px, side_px, dtype=torch.uint8)
    pixels_NCHW[:, :4, 16:48, 16:40] = 255
    boxes_N4 = torch.tensor([[16.0, 16, 40, 48]] * 2)
    return Batch(pixels_NCHW=pixels_NCHW, class_N=torch.tensor([1, 4]), boxes_N4=boxes_N4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_training_lowers_the_loss_of_its_batch(name: str) -> None:
    named = recipe_named(name)
    torch.manual_seed(0)
    network = MultiTaskNetwork(msgspec.structs.replace(named.model_spec(), input_size_px=(64, 64), dropout=0.0))
    recipe = msgspec.structs.replace(named.recipe, lr=1e-3)
    optimizer, batch = optimizer_of(network, recipe), batch_of(64)

    def loss() -> torch.Tensor:
        class_logits_NL, part_logits_NKhw = network(batch.pixels_NCHW[:, :3].float() / 255)
        return multi_task_losses(
            class_logits_NL,
            part_logits_NKhw,
            class_N=batch.class_N,
            coverage_NKHW=batch.pixels_NCHW[:, 3:].float() / 255,
            recipe=recipe,
        ).total

    losses = []
    for _ in range(4):
        value = loss()
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_is_sound_and_its_input_is_as_named(name: str) -> None:
    spec = recipe_named(name).model_spec()
    side_px = int(name.rsplit("-", 1)[1]) if name[-1].isdigit() else 512
    assert spec.input_size_px == (side_px, side_px)
    assert spec.part_head == ("shuffle" if "shuffle" in name else "plain")
    assert spec.encoder_depth == (4 if "-s16" in name else 5)


# As trained, before the rewrites, on a 512x512 input.
GOLDEN = {
    "post": (3_454_060, 4_482_664_960),
    "post-shuffle": (3_459_144, 4_574_153_216),
    "mit-b0-s16-512": (1_433_900, 3_626_731_072),
    "mobilenetv4-small-s16-512": (413_772, 2_192_901_056),
    "hgnetv2-b0-s16-512": (910_878, 2_574_390_272),
    "efficientvit-b1-s16-512": (938_220, 2_559_837_440),
    "efficientnet-lite0-s16-512": (828_524, 2_705_776_128),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_costs_are_as_measured(name: str) -> None:
    spec = recipe_named(name).model_spec()
    cost = cost_of(MultiTaskNetwork(spec), spec.input_size_px)
    assert (cost.params, cost.macs_fvcore) == GOLDEN[name]


def test_a_file_is_a_recipe_too(tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    recipe = NamedRecipe(
        name="mine", spec={"encoder": "tu-test_resnet", "input_size_px": [64, 96]}, recipe=Recipe(lr=1)
    )
    path.write_bytes(msgspec.json.encode(recipe))
    assert recipe_named(str(path)) == recipe
    assert recipe.spec_changes() == {"encoder": "tu-test_resnet", "input_size_px": (64, 96)}


def test_a_changed_architecture_does_not_keep_the_options_of_the_posts() -> None:
    spec = NamedRecipe(name="mine", spec={"architecture": "Unet", "decoder_options": {}}).model_spec()
    assert spec == msgspec.structs.replace(ModelSpec(), architecture="Unet", decoder_options={})


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        pytest.param(None, "can't read", id="missing"),
        pytest.param("{", "can't be used", id="no JSON"),
        pytest.param('{"name": "a", "size": 3}', "can't be used", id="unknown field"),
        pytest.param('{"name": "a", "spec": {"width": 3}}', "spec that can't be used", id="unknown field of the spec"),
        pytest.param('{"name": "a", "spec": {"input_size_px": [50, 50]}}', "multiples of 32", id="impossible size"),
        pytest.param('{"name": "a", "recipe": {"lr": -1}}', "lr is -1", id="impossible number"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(content: str | None, seen: str, tmp_path: Path) -> None:
    path = tmp_path / "best.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=seen):
        recipe_named(str(path))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no recipe is named 'best'.*post, post-shuffle, mit-b0-s16-512"):
        recipe_named("best")


def test_a_recipe_decides_the_whole_network_where_it_is_laid_over_another() -> None:
    _, changes = with_recipe(
        "post-shuffle", recipe=Recipe(), spec_changes={}, given=(), whole=("architecture", "encoder", "part_head")
    )
    assert (changes["architecture"], changes["encoder"], changes["part_head"]) == ("Segformer", "mit_b0", "shuffle")
    _, laid_over_itself = with_recipe("post-shuffle", recipe=Recipe(), spec_changes={}, given=())
    assert "architecture" not in laid_over_itself
