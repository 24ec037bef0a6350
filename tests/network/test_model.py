from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spacecompile.contract import ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.network.model import MultiTaskNetwork

SIZES: dict[str, Any] = {"input_size_px": (64, 64), "frame_size_px": (128, 128)}


@pytest.mark.parametrize(
    ("encoder", "options", "said"),
    [
        pytest.param("resnet18", {"decoder_chanels": [8]}, "'decoder_chanels'; it has .*decoder_channels", id="smp"),
        pytest.param("tu-test_resnet", {"decoder_chanels": [8]}, "no option 'decoder_chanels'", id="decoder on timm"),
        pytest.param("tu-test_resnet", {"no_such": 1}, "no_such", id="encoder of timm"),
        pytest.param("resnet18", {"encoder_depth": 3}, "no option 'encoder_depth'", id="a field of the spec"),
        pytest.param("resnet18", {"no_such": 1}, "no option 'no_such'", id="encoder of smp"),
    ],
)
def test_an_option_that_nothing_takes_is_refused(encoder: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        MultiTaskNetwork(ModelSpec(architecture="Unet", encoder=encoder, decoder_options=options, **SIZES))


def test_the_older_name_of_an_option_is_taken() -> None:
    options = {"decoder_use_batchnorm": False}
    network = MultiTaskNetwork(
        ModelSpec(architecture="Unet", encoder="resnet18", encoder_depth=5, decoder_options=options, **SIZES)
    )
    assert not any("BatchNorm" in type(child).__name__ for child in network.decoder.modules())


@pytest.mark.parametrize(
    ("encoder", "closest"), [("resnet81", "resnet18"), ("tu-test_resnett", "tu-test_resnet"), ("nope", "")]
)
def test_an_unknown_encoder_is_one_sentence_with_the_closest_names(encoder: str, closest: str) -> None:
    with pytest.raises(CheckpointError, match=f"no encoder '{encoder}'.*{closest}") as caught:
        MultiTaskNetwork(ModelSpec(architecture="Unet", encoder=encoder, decoder_options={}, **SIZES))
    assert len(str(caught.value)) < 200


# torch says so of the decoder's convolution over the feature without channels; it is what the network fails on.
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_checkpoint_of_ours_whose_network_does_not_run_is_refused(tmp_path: Path) -> None:
    spec = ModelSpec(architecture="FPN", encoder="tu-repvit_m0_9", encoder_depth=4, decoder_options={}, **SIZES)
    path = tmp_path / "broken.pt"
    save_checkpoint(path, MultiTaskNetwork(spec), training={})
    with pytest.raises(CheckpointError, match=r"FPN with encoder tu-repvit_m0_9 does not run on an input of 64x64"):
        load_checkpoint(path)
