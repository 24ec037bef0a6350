"""Groups of the optimizer, the learning rate's course, averaged weights."""

from __future__ import annotations

import pytest
import torch

from spacecompile.contract import ModelSpec
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train.optimise import AveragedWeights, lr_factor, optimizer_of, set_lr
from spacecompile.train.recipe import Recipe


@pytest.fixture(scope="module")
def network() -> MultiTaskNetwork:
    return MultiTaskNetwork(ModelSpec(input_size_px=(64, 64)))


def test_every_parameter_is_in_one_group_with_its_rate_and_decay(network: MultiTaskNetwork) -> None:
    recipe = Recipe(lr=1e-2, encoder_lr_scale=0.1, weight_decay=1e-4)
    optimizer = optimizer_of(network, recipe)
    set_lr(optimizer, recipe, 0.5)
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(settings) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        lr = 5e-4 if name.startswith("encoder.") else 5e-3
        assert settings[id(parameter)] == (pytest.approx(lr), 1e-4 if parameter.ndim > 1 else 0.0), name


@pytest.mark.parametrize(
    ("step", "progress", "factor"),
    [
        pytest.param(0, 0.0, 0.1, id="first step of the ramp"),
        pytest.param(9, 0.0, 1.0, id="end of the ramp"),
        pytest.param(50, 0.5, 0.5, id="half way"),
        pytest.param(100, 1.0, 0.0, id="end"),
        pytest.param(100, 1.7, 0.0, id="past the end"),
    ],
)
def test_learning_rate_ramps_up_and_ends_at_zero(step: int, progress: float, factor: float) -> None:
    assert lr_factor(step=step, warmup_steps=10, progress=progress) == pytest.approx(factor, abs=1e-12)


def test_no_warmup_starts_at_the_peak() -> None:
    assert lr_factor(step=0, warmup_steps=0, progress=0.0) == 1.0


def test_averaged_weights_follow_and_then_settle(network: MultiTaskNetwork) -> None:
    averaged = AveragedWeights(network, 0.9)
    name, parameter = next(iter(network.named_parameters()))
    start = parameter.detach().clone()
    with torch.no_grad():
        parameter += 1
    averaged.update(network, 1)
    followed = averaged.network.get_parameter(name)
    assert torch.allclose(followed, start + 1 - 2 / 11, atol=1e-5)  # decay 2/11 after one step
    for steps_done in range(1000, 1100):
        averaged.update(network, steps_done)
    assert torch.allclose(followed, start + 1, atol=1e-4)
    assert not followed.requires_grad


def test_averaging_copies_counters_and_averages_statistics(network: MultiTaskNetwork) -> None:
    averaged = AveragedWeights(network, 0.5)
    norm = network.decoder.fuse_stage[1]  # type: ignore[index]
    norm.num_batches_tracked.fill_(12)
    norm.running_mean.fill_(4.0)
    averaged.update(network, 1000)
    mirrored = averaged.network.decoder.fuse_stage[1]  # type: ignore[index]
    assert mirrored.num_batches_tracked.item() == 12
    assert torch.allclose(mirrored.running_mean, torch.tensor(2.0))
