"""From keys and shapes to the network that has exactly these weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spacecompile.contract import SPARK_CLASSES, ModelSpec
from spacecompile.errors import CheckpointError, UsageError
from spacecompile.network.checkpoint import LoadedCheckpoint, save_checkpoint
from spacecompile.network.foreign.decoder import ARCHITECTURES

SMALL = (32, 16, 16, 8)
"""Channels of a U-Net on four stages."""

LoadFile = Callable[..., LoadedCheckpoint]
BuildModel = Callable[..., nn.Module]


@pytest.mark.parametrize(
    ("decoder", "options", "expected"),
    [
        pytest.param(
            "Unet", {"encoder_depth": 4, "decoder_channels": SMALL}, {"decoder_channels": [*SMALL]}, id="Unet"
        ),
        pytest.param(
            "Unet",
            {"encoder_depth": 3, "decoder_channels": (64, 32, 16), "decoder_attention_type": "scse"},
            {"decoder_channels": [64, 32, 16], "decoder_attention_type": "scse"},
            id="Unet with attention",
        ),
        pytest.param(
            "Unet",
            {"encoder_depth": 4, "decoder_channels": SMALL, "decoder_use_norm": "identity"},
            {"decoder_use_norm": "identity"},
            id="Unet without norm",
        ),
        pytest.param(
            "Unet",
            {
                "encoder_depth": 4,
                "decoder_channels": SMALL,
                "decoder_use_norm": {"type": "instancenorm", "affine": True},
            },
            {"decoder_use_norm": {"type": "instancenorm", "affine": True}},
            id="Unet with learned instance norm",
        ),
        pytest.param(
            "UnetPlusPlus",
            {"encoder_depth": 3, "decoder_channels": (32, 16, 16), "decoder_attention_type": "scse"},
            {"decoder_channels": [32, 16, 16], "decoder_attention_type": "scse"},
            id="UnetPlusPlus",
        ),
        pytest.param(
            "MAnet",
            {"encoder_depth": 4, "decoder_channels": SMALL, "decoder_pab_channels": 24},
            {"decoder_channels": [*SMALL], "decoder_pab_channels": 24},
            id="MAnet",
        ),
        pytest.param("Linknet", {"encoder_depth": 4, "decoder_use_norm": "identity"}, {}, id="Linknet"),
        pytest.param(
            "FPN",
            {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 64, "decoder_merge_policy": "cat"},
            {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 64, "decoder_merge_policy": "cat"},
            id="FPN",
        ),
        pytest.param(
            "Segformer",
            {"encoder_depth": 4, "decoder_segmentation_channels": 48},
            {"decoder_segmentation_channels": 48},
            id="Segformer",
        ),
        pytest.param(
            "DeepLabV3",
            {"decoder_channels": 16, "decoder_aspp_separable": True},
            {"decoder_channels": 16, "decoder_aspp_separable": True, "encoder_output_stride": 8},
            id="DeepLabV3",
        ),
        pytest.param(
            "DeepLabV3Plus",
            {"decoder_channels": 16, "decoder_aspp_separable": False},
            {"decoder_channels": 16, "decoder_aspp_separable": False, "encoder_output_stride": 16},
            id="DeepLabV3Plus",
        ),
        pytest.param("PAN", {"decoder_channels": 16}, {"decoder_channels": 16}, id="PAN"),
        pytest.param(
            "PSPNet",
            {"psp_out_channels": 32, "decoder_use_norm": "identity"},
            {"psp_out_channels": 32, "decoder_use_norm": "identity"},
            id="PSPNet",
        ),
        pytest.param("UPerNet", {"decoder_channels": 16}, {"decoder_channels": 16}, id="UPerNet"),
    ],
)
def test_architecture_depth_and_options_are_those_it_was_built_with(
    smp_model: BuildModel, load_file: LoadFile, decoder: str, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    model = smp_model(decoder, **options)
    spec = load_file(model.state_dict(), input_size_px=(128, 128)).spec
    assert (spec.architecture, spec.encoder) == (decoder, "tu-test_resnet")
    assert spec.encoder_depth == options.get("encoder_depth", 3 if decoder == "PSPNet" else 5)
    assert {name: spec.decoder_options[name] for name in expected} == expected
    assert len(spec.classes) == 3


def test_every_known_architecture_is_in_the_table_above() -> None:
    marks = test_architecture_depth_and_options_are_those_it_was_built_with.pytestmark  # type: ignore[attr-defined]
    assert {case.values[0] for case in marks[0].args[1]} == {architecture.name for architecture in ARCHITECTURES}


@pytest.mark.parametrize("encoder", ["resnet18", "vgg11_bn", "tu-test_convnext", "timm-skresnet18"])
def test_encoders_of_smp_and_of_timm_are_told_apart(smp_model: BuildModel, load_file: LoadFile, encoder: str) -> None:
    with pytest.warns(DeprecationWarning) if encoder.startswith("timm-") else nullcontext():
        model = smp_model("Unet", encoder, decoder_channels=(32, 16, 16, 8, 8))
    assert load_file(model.state_dict()).spec.encoder == encoder


@pytest.mark.parametrize(
    ("decoder", "options", "upsampling"),
    [
        pytest.param("Segformer", {"encoder_depth": 4}, "align_corners", id="by four"),
        pytest.param("PSPNet", {}, "align_corners", id="by eight"),
        pytest.param("PSPNet", {"encoder_depth": 4, "upsampling": 16}, "align_corners", id="by another factor"),
        pytest.param("DeepLabV3", {"decoder_channels": 16}, "align_corners", id="by the encoder's stride"),
        pytest.param("Unet", {"encoder_depth": 4, "decoder_channels": SMALL}, "half_pixel", id="nothing to do"),
    ],
)
def test_masks_reach_the_input_as_in_smp(
    smp_model: BuildModel, load_file: LoadFile, decoder: str, options: dict[str, Any], upsampling: str
) -> None:
    model = smp_model(decoder, **options)
    loaded = load_file(model.state_dict())
    assert loaded.spec.mask_upsampling == upsampling
    inputs_NCHW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        masks_NKHW, expected_NL = model(inputs_NCHW)
        class_logits_NL, part_logits_NKhw = loaded.network(inputs_NCHW)
        if upsampling == "align_corners":
            part_logits_NKhw = functional.interpolate(part_logits_NKhw, (64, 64), mode="bilinear", align_corners=True)
    torch.testing.assert_close(part_logits_NKhw, masks_NKHW, rtol=0, atol=1e-6)
    torch.testing.assert_close(class_logits_NL, expected_NL, rtol=0, atol=1e-6)


def test_what_no_weight_tells_is_a_default_and_listed(load_file: LoadFile, state_dict: dict[str, Tensor]) -> None:
    loaded = load_file(state_dict, std=(0.5, 0.5, 0.5))
    assert loaded.spec.std == (0.5, 0.5, 0.5)
    assert loaded.spec.mean == ModelSpec().mean
    assert loaded.spec.classes == ("class-0", "class-1", "class-2")
    assert loaded.assumed == (
        "mean 0.27,0.26,0.28 (--mean)",
        "classes class-0,class-1,class-2 (--classes)",
        "decoder_interpolation nearest (--decoder-options)",
        "masks body and panel, a classifier on averaged features, no activations",
    )


def test_ten_classes_are_the_benchmark_s(smp_model: BuildModel, load_file: LoadFile) -> None:
    model = smp_model("Segformer", num_classes=10, encoder_depth=4)
    assert load_file(model.state_dict()).spec.classes == SPARK_CLASSES


def test_what_is_given_wins_over_the_defaults_of_smp(load_file: LoadFile, state_dict: dict[str, Tensor]) -> None:
    nearest = load_file(state_dict)
    loaded = load_file(state_dict, decoder_options={"decoder_interpolation": "bilinear"})
    assert loaded.spec.decoder_options == {"decoder_channels": [*SMALL], "decoder_interpolation": "bilinear"}
    assert not any("decoder_interpolation" in fact for fact in loaded.assumed)
    inputs_NCHW = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert not torch.equal(loaded.network(inputs_NCHW)[1], nearest.network(inputs_NCHW)[1])


def test_encoders_with_the_same_weights_that_compute_differently_are_listed_with_the_flag(
    smp_model: BuildModel, load_file: LoadFile
) -> None:
    # TensorFlow pads and normalises in another way.
    weights = smp_model("Segformer", "tu-tf_efficientnet_b0").state_dict()
    with pytest.raises(CheckpointError, match=r"compute differently: .*tu-tf_efficientnet_b0.* with --encoder"):
        load_file(weights)
    assert load_file(weights, encoder="tu-tf_efficientnet_b0").spec.encoder == "tu-tf_efficientnet_b0"


def without(weights: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if not key.startswith(start)}


@pytest.mark.parametrize(
    ("changed", "given", "message"),
    [
        pytest.param(
            lambda weights: without(weights, "classification_head"),
            {},
            r'it has no classification head; .* aux_params=\{"classes": N\}',
            id="no classifier",
        ),
        pytest.param(
            lambda weights: {**weights, "segmentation_head.0.weight": torch.zeros(1, 8, 3, 3)},
            {},
            "its segmentation head gives 1 mask; 2 are needed, body and panel in this order",
            id="one mask",
        ),
        pytest.param(
            lambda weights: {**weights, "segmentation_head.0.weight": torch.zeros(11, 8, 3, 3)},
            {},
            "gives 11 masks; 2 are needed",
            id="eleven masks",
        ),
        pytest.param(
            lambda weights: {**without(weights, "decoder"), "decoder.projection.weight": torch.zeros(1)},
            {},
            "of no known architecture: its first weight is decoder.projection.weight. Known are Segformer, .* name one",
            id="unknown decoder",
        ),
        pytest.param(
            lambda weights: {**weights, "encoder.model.more.weight": torch.zeros(1)},
            {},
            r"its encoder of \d+ weights, the first model.conv1.0.weight \[16, 3, 3, 3\], is like none .* --encoder",
            id="unknown encoder",
        ),
        pytest.param(
            lambda weights: weights,
            {"encoder": "tu-test_convnext"},
            r"not smp's Unet with encoder tu-test_convnext at depth \d: .* of its weights are not in the file, first",
            id="another encoder",
        ),
        pytest.param(
            lambda weights: weights,
            {"encoder": "tu-no_such"},
            "smp has no encoder 'tu-no_such'",
            id="no encoder",
        ),
        pytest.param(
            lambda weights: weights,
            {"encoder_depth": 3},
            "like none that smp or timm has at depth 3",
            id="another depth",
        ),
        pytest.param(
            lambda weights: weights,
            {"architecture": "FPN"},
            "decoder is not smp's FPN: it has no weight",
            id="another class",
        ),
        pytest.param(
            lambda weights: weights,
            {"architecture": "DPT"},
            "--architecture is 'DPT'; smp checkpoints of these",
            id="DPT",
        ),
        pytest.param(
            lambda weights: weights,
            {"decoder_options": {"decoder_channels": [8, 8, 8, 8]}},
            r"have another shape, first decoder.blocks.0.conv1.0.weight: \[32, .*\] in the file, not \[8, ",
            id="other options",
        ),
        pytest.param(
            lambda weights: weights,
            {"decoder_options": {"no_such": 1}},
            "refuses Unet with encoder tu-test_resnet: .*no_such",
            id="an option that smp has not",
        ),
        pytest.param(
            lambda weights: weights,
            {"classes": ("a", "b")},
            "classifier has 3 classes, but 2 names are given",
            id="number of classes",
        ),
    ],
)
def test_what_can_not_be_used_is_refused_with_what_was_seen(
    load_file: LoadFile,
    state_dict: dict[str, Tensor],
    changed: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    given: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(CheckpointError, match=message) as refusal:
        load_file(changed(state_dict), **given)
    assert "weights.pt (smp state dict) can't be used" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("decoder", "options", "given", "message"),
    [
        pytest.param(
            "PAN",
            {},
            {},
            "PAN with encoder tu-test_resnet does not run on an input of 64x64: .* larger --imgsz",
            id="PAN",
        ),
        pytest.param(
            "PSPNet",
            {},
            {"decoder_options": {"upsampling": 4}},
            "upsampling is 4 in --decoder-options, but the part logits need 8",
            id="masks that don't reach the input's size",
        ),
    ],
)
def test_a_network_that_does_not_run_at_its_size_is_refused(
    smp_model: BuildModel, load_file: LoadFile, decoder: str, options: Any, given: Any, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_file(smp_model(decoder, **options).state_dict(), **given)


def test_our_own_checkpoint_is_not_renamed(load_file: LoadFile, state_dict: dict[str, Tensor], tmp_path: Any) -> None:
    network = load_file(state_dict).network
    save_checkpoint(tmp_path / "ours.pt", network, training={})
    content = torch.load(tmp_path / "ours.pt", weights_only=True)
    assert load_file(content, encoder="tu-test_resnet").assumed == ()
    with pytest.raises(UsageError, match=r"encoder is given as 'resnet18', but .* says itself .* 'tu-test_resnet'"):
        load_file(content, encoder="resnet18")
