"""Encoders cut behind the last stage that is used: fewer parameters, the same features, old files still read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from spacecompile.contract import ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.unused import reaching_parameters


def spec_of(encoder: str, depth: int) -> ModelSpec:
    return ModelSpec(encoder=encoder, encoder_depth=depth, input_size_px=(64, 64))


def params_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("encoder", "depth", "whole", "cut"),
    [
        pytest.param("tu-tf_efficientnet_lite0", 4, 2_958_848, 700_768, id="timm"),
        pytest.param("tu-mobilenetv4_conv_small", 4, 1_261_664, 317_568, id="timm-mobilenetv4"),
        pytest.param("mit_b0", 4, 3_319_392, 1_349_472, id="smp"),
        pytest.param("resnet18", 3, 11_176_512, 683_072, id="smp-resnet"),
        pytest.param("tu-hgnetv2_b0", 4, 749_202, 749_202, id="built-as-deep-as-asked"),
    ],
)
def test_what_no_feature_depends_on_is_not_there(encoder: str, depth: int, whole: int, cut: int) -> None:
    torch.manual_seed(0)
    uncut = MultiTaskNetwork(spec_of(encoder, depth), whole_encoder=True).eval()
    network = MultiTaskNetwork(spec_of(encoder, depth)).eval()
    assert (params_of(uncut.encoder), params_of(network.encoder)) == (whole, cut)
    kept = network.state_dict()
    network.load_state_dict({name: value for name, value in uncut.state_dict().items() if name in kept})
    input_NCHW = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for mine, theirs in zip(network(input_NCHW), uncut(input_NCHW), strict=True):
            assert torch.equal(mine, theirs)


def test_a_checkpoint_with_the_whole_encoder_still_loads(tmp_path: Path) -> None:
    spec = spec_of("tu-mobilenetv4_conv_small", 4)
    whole = MultiTaskNetwork(spec, whole_encoder=True).eval()
    save_checkpoint(tmp_path / "old.pt", whole, training={})
    loaded = load_checkpoint(tmp_path / "old.pt").network
    assert params_of(loaded) < params_of(whole)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_weights_of_no_layer_at_all_are_refused(tmp_path: Path) -> None:
    network = MultiTaskNetwork(spec_of("tu-test_resnet", 4))
    network.encoder.register_buffer("stray", torch.zeros(1))
    save_checkpoint(tmp_path / "stray.pt", network, training={})
    with pytest.raises(CheckpointError, match="does not fit its own spec"):
        load_checkpoint(tmp_path / "stray.pt")


def test_a_checkpoint_without_class_pooling_means_the_mean(tmp_path: Path) -> None:
    spec = spec_of("tu-test_resnet", 4)
    save_checkpoint(tmp_path / "old.pt", MultiTaskNetwork(spec), training={})
    content = torch.load(tmp_path / "old.pt", weights_only=True)
    del content["spec"]["class_pooling"]
    torch.save(content, tmp_path / "older.pt")
    assert load_checkpoint(tmp_path / "older.pt").spec == msgspec.structs.replace(spec, class_pooling="mean")


def test_parameters_are_asked_for_by_feature() -> None:
    encoder = MultiTaskNetwork(spec_of("tu-tf_efficientnet_lite0", 4)).encoder
    input_NCHW = torch.zeros(1, 3, 64, 64, device="meta")
    stem, first, all_of_them = (reaching_parameters(encoder, input_NCHW, slice(end)) for end in (1, 2, 5))
    assert stem == set()  # the first feature is the input
    assert {name.split(".")[1] for name in first} == {"conv_stem", "bn1", "blocks"}
    assert {name.split(".")[2] for name in first if "blocks" in name} == {"0"}
    assert all_of_them == {name for name, _ in encoder.named_parameters()}
