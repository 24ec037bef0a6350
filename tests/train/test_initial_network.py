"""A run begins with a checkpoint's network, or says in one sentence why that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spacecompile.cli.main import main
from spacecompile.contract import SPARK_CLASSES
from spacecompile.errors import CheckpointError, UsageError
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.train.initial_network import initial_network


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        pytest.param(
            {"encoder": "resnet18", "encoder_depth": 5, "decoder_options": {}},
            CheckpointError,
            "they are of encoder 'tu-test_resnet', not 'resnet18'; encoder_depth 4, not 5; .*Leave out --recipe",
            id="other encoder",
        ),
        pytest.param({"part_head": "shuffle"}, CheckpointError, "part_head .*not 'shuffle'", id="other head"),
        pytest.param(
            {"decoder_options": {"decoder_channels": [32, 16, 16, 4]}},
            CheckpointError,
            "Leave out --recipe",
            id="width",
        ),
        pytest.param(
            {"classes": SPARK_CLASSES[:-1]}, UsageError, "has 10 classes .*--classes names 9", id="fewer classes"
        ),
        pytest.param(
            {"classes": SPARK_CLASSES[::-1]}, UsageError, "in the order .*Leave out --classes", id="classes mixed up"
        ),
    ],
)
def test_what_does_not_fit_is_said_with_the_flag_to_leave_out(
    still_checkpoint: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        initial_network(still_checkpoint, changes)
    assert "size mismatch" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_names_for_as_many_classes_are_a_new_start(still_checkpoint: Path) -> None:
    names = tuple(f"target_{index}" for index in range(10))
    network = initial_network(still_checkpoint, {"classes": names})
    assert network.spec.classes == names
    assert network.spec.input_size_px == load_checkpoint(still_checkpoint).spec.input_size_px


def test_what_fits_is_transferred_to_another_network(still_checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = load_checkpoint(still_checkpoint).network.state_dict()
    network = initial_network(
        still_checkpoint,
        {"decoder_options": {"decoder_channels": [32, 16, 16, 4]}, "classes": SPARK_CLASSES[:-1]},
        transfer=True,
    )
    new = network.state_dict()
    fitting = {name for name in new if name in known and known[name].shape == new[name].shape}
    assert all(torch.equal(new[name], known[name]) for name in fitting)
    assert any(name.startswith("encoder.") for name in fitting)
    assert {"classification_head.3.weight", "segmentation_head.0.weight"} <= new.keys() - fitting
    assert f"{len(fitting)} of {len(new)} tensors" in caplog.text
    assert "new are tensors of classification_head.3, decoder." in caplog.text


def test_a_network_that_nothing_but_biases_fits_is_refused(still_checkpoint: Path) -> None:
    network = {"architecture": "Segformer", "encoder": "mit_b0", "encoder_depth": 5, "decoder_options": {}}
    with pytest.raises(CheckpointError, match=r"no weight of .* fits the network asked for"):
        initial_network(still_checkpoint, network, transfer=True)


def test_classes_of_another_order_are_refused_in_a_transfer_too(still_checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="in the order"):
        initial_network(still_checkpoint, {"classes": SPARK_CLASSES[::-1]}, transfer=True)


def test_the_state_of_a_run_lends_its_averaged_weights(still_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    given = ("--epochs", "2", "--batch-size", "20", "--lr", "1e-2", "--ema", "0.5", "--no-amp", "--val-frames", "2")
    arguments = [
        "train",
        "--data",
        str(tiny_data),
        "--init",
        str(still_checkpoint),
        "-o",
        str(tmp_path / "run"),
        *given,
    ]
    assert main(arguments) == 0
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    weights = initial_network(tmp_path / "run" / "last.pt", {}).state_dict()
    assert all(torch.equal(value, state["averaged"][name]) for name, value in weights.items())
    assert any(not torch.equal(value, state["network"][name]) for name, value in weights.items())


def test_a_state_of_another_version_is_one_sentence(tmp_path: Path) -> None:
    torch.save({"format": "spacecompile-training-1"}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="another version began this run"):
        initial_network(tmp_path / "last.pt", {})
