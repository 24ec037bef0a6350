"""Where in other trainers' files the weights are found."""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from spacecompile.errors import CheckpointError
from spacecompile.network.checkpoint import LoadedCheckpoint, load_checkpoint

LIGHTNING = {
    "epoch": 3,
    "global_step": 42,
    "pytorch-lightning_version": "2.5.0",
    "loops": {},
    "callbacks": {"ModelCheckpoint": {"best_model_score": 0.9}},
    "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-3}]}],
    "lr_schedulers": [],
    "hyper_parameters": {"lr": 1e-3, "encoder": "tu-test_resnet"},
}


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in weights.items()}


@pytest.mark.parametrize(
    ("wrapped", "expected_format"),
    [
        pytest.param(lambda weights: weights, "smp state dict", id="bare"),
        pytest.param(OrderedDict, "smp state dict", id="ordered dict"),
        pytest.param(lambda weights: prefixed(weights, "module."), "smp state dict, prefix 'module.'", id="DDP"),
        pytest.param(
            lambda weights: prefixed(weights, "_orig_mod."), "smp state dict, prefix '_orig_mod.'", id="torch.compile"
        ),
        pytest.param(
            lambda weights: prefixed(weights, "module._orig_mod."),
            "smp state dict, prefix 'module._orig_mod.'",
            id="DDP of torch.compile",
        ),
        pytest.param(
            lambda weights: {key.replace("encoder.", "encoder._orig_mod.", 1): value for key, value in weights.items()},
            "smp state dict",
            id="only the encoder compiled",
        ),
        pytest.param(
            lambda weights: {**LIGHTNING, "state_dict": prefixed(weights, "model.")},
            "Lightning checkpoint, prefix 'model.'",
            id="Lightning",
        ),
        pytest.param(
            lambda weights: {**LIGHTNING, "state_dict": prefixed(weights, "net.model.")},
            "Lightning checkpoint, prefix 'net.model.'",
            id="Lightning, deeper",
        ),
        pytest.param(lambda weights: {**LIGHTNING, "state_dict": weights}, "Lightning checkpoint", id="no prefix"),
        *(
            pytest.param(
                lambda weights, entry=entry: {"epoch": 1, entry: weights},
                f"smp state dict in entry '{entry}'",
                id=entry,
            )
            for entry in ("model", "model_state_dict", "state_dict", "ema")
        ),
        pytest.param(
            lambda weights: {"model": {"state_dict": prefixed(weights, "module.")}},
            "smp state dict in entry 'model.state_dict', prefix 'module.'",
            id="two entries deep",
        ),
        pytest.param(
            lambda weights: {key: value for key, value in weights.items() if "num_batches" not in key},
            "smp state dict",
            id="without batch norm's counters",
        ),
        pytest.param(
            lambda weights: {
                key: value.half() if value.is_floating_point() else value for key, value in weights.items()
            },
            "smp state dict",
            id="half precision",
        ),
    ],
)
def test_the_weights_are_found_wherever_trainers_put_them(
    state_dict: dict[str, Tensor],
    load_file: Callable[..., LoadedCheckpoint],
    wrapped: Callable[[dict[str, Tensor]], Any],
    expected_format: str,
) -> None:
    loaded = load_file(wrapped(state_dict))
    assert loaded.format == expected_format
    assert loaded.training == {}
    for key, value in loaded.network.state_dict().items():
        torch.testing.assert_close(value, state_dict[key], rtol=1e-3, atol=1e-6)


def test_safetensors_of_another_program_are_read(state_dict: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(state_dict, path, metadata={"format": "pt", "spec": "not ours"})
    loaded = load_checkpoint(path, given={"input_size_px": (64, 64)})
    assert (loaded.format, loaded.spec.encoder) == ("smp state dict", "tu-test_resnet")
    assert torch.equal(
        loaded.network.state_dict()["decoder.blocks.0.conv1.0.weight"], state_dict["decoder.blocks.0.conv1.0.weight"]
    )


def test_of_two_sets_of_weights_the_one_that_was_taken_is_said(
    state_dict: dict[str, Tensor], load_file: Callable[..., LoadedCheckpoint]
) -> None:
    averaged = {key: value + 1 for key, value in state_dict.items()}
    loaded = load_file({"model": state_dict, "ema": averaged})
    assert loaded.format == "smp state dict in entry 'model'"
    assert "weights of entry 'model', not of 'ema'" in loaded.assumed
    assert torch.equal(
        loaded.network.state_dict()["encoder.model.conv1.0.weight"], state_dict["encoder.model.conv1.0.weight"]
    )


def test_tensors_beside_the_network_are_left_out_and_said(
    state_dict: dict[str, Tensor], load_file: Callable[..., LoadedCheckpoint]
) -> None:
    loaded = load_file({**state_dict, "loss.weight": torch.ones(2), "loss.bias": torch.ones(2)})
    assert "2 tensors beside the network left out, first loss.bias" in loaded.assumed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            lambda weights: {"encoder.conv1.weight": weights["segmentation_head.0.weight"]},
            "holds no segmentation_models_pytorch network: no weight's name ends in segmentation_head.0.weight",
            id="an encoder alone",
        ),
        pytest.param(
            lambda weights: {**prefixed(weights, "teacher."), **prefixed(weights, "student.")},
            "holds 2 networks, under the prefixes 'student.', 'teacher.'. Save the state dict of the one",
            id="two networks",
        ),
        pytest.param(
            lambda weights: {**LIGHTNING, "state_dict": weights, "hyper_parameters": Namespace(lr=1)},
            r"could run code when loaded.* \(argparse.Namespace\). Save its weights alone .*torch.save\(model",
            id="Lightning with an object",
        ),
        pytest.param(
            lambda weights: {"format": "spacecompile-checkpoint-9", "state_dict": weights},
            "of format 'spacecompile-checkpoint-9'; this version reads 'spacecompile-checkpoint-1'",
            id="of a later version of ours",
        ),
        pytest.param(
            lambda weights: {**weights, "encoder.model.conv1.0.weight": torch.full((16, 3, 3, 3), float("nan"))},
            "NaN or infinity in 1 tensors",
            id="not a number",
        ),
    ],
)
def test_a_file_without_one_usable_network_is_refused(
    state_dict: dict[str, Tensor],
    load_file: Callable[..., LoadedCheckpoint],
    changed: Callable[[dict[str, Tensor]], Any],
    message: str,
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_file(changed(state_dict))
