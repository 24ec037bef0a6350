"""What is frozen stays as it is to the last digit, while the rest learns."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest
import torch

from spacecompile.cli.main import main
from spacecompile.contract import ModelSpec
from spacecompile.errors import UsageError
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train.freeze import freeze, train_mode, trains_on_batch_statistics
from spacecompile.train.recipe import Recipe

SPEC = ModelSpec(encoder="tu-test_resnet", encoder_depth=4, input_size_px=(64, 64))


def trained_and_start(folder: Path, data: Path, start: Path, *flags: str) -> tuple[dict[str, torch.Tensor], ...]:
    given = ("--epochs", "1", "--batch-size", "8", "--lr", "1e-2", "--encoder-lr-scale", "1", "--no-amp")
    arguments = ["train", "--data", str(data), "--init", str(start), "-o", str(folder), *given, *flags]
    assert main(arguments) == 0
    return torch.load(folder / "last.pt", weights_only=True)["network"], load_checkpoint(start).network.state_dict()


def changed(after: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def test_frozen_stages_keep_weights_and_statistics(tmp_path: Path, tiny_data: Path, still_checkpoint: Path) -> None:
    after, before = trained_and_start(tmp_path / "run", tiny_data, still_checkpoint, "--freeze-stages", "2")
    moved = changed(after, before)
    # Of a ResNet the stem is the first stage and layer 1 the second.
    assert not {name for name in moved if name.startswith(("encoder.model.conv1", "encoder.model.bn1"))}
    assert not {name for name in moved if name.startswith("encoder.model.layer1")}
    assert {name for name in moved if name.startswith("encoder.model.layer2") and name.endswith("running_mean")}
    assert {name for name in moved if name.startswith("decoder.")}


def test_frozen_norms_keep_their_statistics_and_learn_their_gains(
    tmp_path: Path, tiny_data: Path, still_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        after, before = trained_and_start(tmp_path / "run", tiny_data, still_checkpoint, "--freeze-norm")
    moved = changed(after, before)
    assert not {name for name in moved if "running_" in name}
    assert "encoder.model.bn1.weight" in moved
    assert "batch norm takes its statistics" not in caplog.text


def test_a_small_batch_is_warned_of(
    tmp_path: Path, tiny_data: Path, still_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trained_and_start(tmp_path / "run", tiny_data, still_checkpoint, "--batch-size", "4", "--limit-frames", "8")
    assert "batch norm takes its statistics from 4 frames" in caplog.text
    assert "--freeze-norm" in caplog.text


def test_more_stages_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match="has 4 stages"):
        freeze(MultiTaskNetwork(SPEC), Recipe(freeze_stages=5))


def test_a_stage_that_an_encoder_lacks_is_said() -> None:
    spec = msgspec.structs.replace(SPEC, encoder="mit_b0", encoder_depth=5)  # begins at a quarter of the input
    with pytest.raises(UsageError, match="nothing before its stage 2"):
        freeze(MultiTaskNetwork(spec), Recipe(freeze_stages=1))


def test_nothing_is_frozen_unless_asked_for() -> None:
    network = MultiTaskNetwork(SPEC)
    freeze(network, Recipe())
    train_mode(network, Recipe())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())
    assert trains_on_batch_statistics(network)


def test_a_whole_frozen_encoder_leaves_heads_to_learn() -> None:
    network, recipe = MultiTaskNetwork(SPEC), Recipe(freeze_stages=4)
    freeze(network, recipe)
    train_mode(network, recipe)
    assert not any(parameter.requires_grad for parameter in network.encoder.parameters())
    assert not network.encoder.training
    assert all(parameter.requires_grad for parameter in network.decoder.parameters())
