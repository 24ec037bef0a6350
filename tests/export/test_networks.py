"""Every pair of encoder and decoder that smp builds compiles: identified, rewritten, exported, equal to PyTorch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from msgspec.structs import replace
from torch import nn
from torch.nn import functional

from spacecompile.contract import FP32_TOLERANCE, ModelSpec, Tta
from spacecompile.errors import CheckpointError
from spacecompile.export.parity.frame_set import ParityFrame, adversarial_frames
from spacecompile.export.parity.reference import ViewByView, expected_answers
from spacecompile.export.parity.verdict import check_parity, require_parity
from spacecompile.export.precision.graph import GraphView
from spacecompile.export.precision.half import in_half, plan_half
from spacecompile.export.precision.magnitude import largest_magnitudes
from spacecompile.export.precision.quantise import quantisable_layers, quantised
from spacecompile.export.rewrite.pipeline import rewrite_network
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.export.sealed.to_onnx import export_model, export_onnx, model_bytes
from spacecompile.network.checkpoint import LoadedCheckpoint, load_checkpoint, save_checkpoint
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.runtime.backends.onnxruntime_ import OnnxRuntimeBackend
from spacecompile.runtime.guard import impossible_output

ENCODERS = (
    *("mit_b0", "efficientnet-b0", "mobileone_s1", "tu-mobilenetv4_conv_small", "tu-hgnetv2_b0"),
    *("tu-efficientvit_b1", "tu-fastvit_t8", "tu-repvit_m0_9"),
)
DECODERS = ("Unet", "Segformer", "DeepLabV3Plus", "FPN", "PAN", "PSPNet", "Linknet")

_NO_STRIDE = "unexpected keyword argument 'output_stride'"
REFUSED = {
    ("mit_b0", "Linknet"): "Encoder `mit_b0` is not supported for Linknet",
    **{
        (encoder, decoder): _NO_STRIDE
        for encoder in ("tu-hgnetv2_b0", "tu-efficientvit_b1", "tu-fastvit_t8", "tu-repvit_m0_9")
        for decoder in ("DeepLabV3Plus", "PAN")
    },
}
"""What smp 0.6 itself says to these pairs, with its default options."""

STRIDE_32 = tuple(encoder for encoder, decoder in REFUSED if decoder == "PAN")
"""Encoders that PAN takes all the same when asked for an output stride of 32, which is none."""

IN_EVERY_PRECISION = (("tu-hgnetv2_b0", "Unet"), ("tu-fastvit_t8", "PSPNet"))
"""Of `QUICK`, those that the fast suite converts too: one whose biases are merged with constants after the network."""

QUICK = (
    ("mit_b0", "Segformer"),
    ("efficientnet-b0", "DeepLabV3Plus"),
    ("mobileone_s1", "FPN"),
    ("tu-mobilenetv4_conv_small", "PAN"),
    ("tu-hgnetv2_b0", "Unet"),
    ("tu-efficientvit_b1", "Linknet"),
    ("tu-fastvit_t8", "PSPNet"),
    ("tu-repvit_m0_9", "Segformer"),
)
"""Every encoder and every decoder at least once."""

WITH_VIEWS = (("tu-hgnetv2_b0", "Unet"), ("tu-repvit_m0_9", "Segformer"))
"""One with masks of the input's size, one whose masks are upsampled with aligned corners."""

NUM_CLASSES = 10


def pairs() -> list[Any]:
    """The table, the pairs outside of the covering subset only under `make test-full`."""
    built = [(encoder, decoder) for encoder in ENCODERS for decoder in DECODERS if (encoder, decoder) not in REFUSED]
    return [pytest.param(*pair, id="-".join(pair), marks=() if pair in QUICK else pytest.mark.slow) for pair in built]


def input_size_px(decoder: str, options: dict[str, Any]) -> tuple[int, int]:
    """The smallest that a decoder takes: PAN halves its deepest features three times."""
    side_px = 8 * options.get("encoder_output_stride", 16) if decoder == "PAN" else 64
    return side_px, side_px


def smp_model(encoder: str, decoder: str, **options: Any) -> nn.Module:
    """An smp network with seeded weights, batch-norm statistics far from 0 and 1, and logits of both signs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = getattr(smp, decoder)(
            encoder_name=encoder, encoder_weights=None, classes=2, aux_params={"classes": NUM_CLASSES}, **options
        )
        randomise(model, scenes(input_size_px(decoder, options)))
    return model.eval()


def scenes(size_px: tuple[int, int]) -> torch.Tensor:
    """Normalised inputs [4, 3, H, W] like those that the frames of the parity check give: blocks and noise."""
    blocks_NCHW = functional.interpolate(torch.rand(4, 3, 8, 8), size_px)
    noise_NCHW = torch.rand(4, 3, *size_px)
    share_N111 = torch.tensor([0.0, 0.1, 0.5, 1.0]).reshape(-1, 1, 1, 1)
    return (torch.lerp(blocks_NCHW, noise_NCHW, share_N111) - 0.27) / 0.2


@torch.no_grad()
def randomise(model: nn.Module, inputs_NCHW: torch.Tensor) -> None:
    """Of an smp network: the norms, then heads whose logits have both signs."""
    randomise_norms(model, inputs_NCHW)
    masks_NKHW, class_logits_NL = model(inputs_NCHW)
    _centre(model.segmentation_head[0], masks_NKHW, 3.0)
    _centre(model.classification_head[3], class_logits_NL, 2.0)


def randomise_norms(model: nn.Module, inputs_NCHW: torch.Tensor) -> None:
    for name, parameter in model.named_parameters():
        # Residual branches begin switched off in some encoders.
        if name.endswith("gamma") or "layer_scale" in name:
            parameter.uniform_(0.3, 0.7)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.normal_(1, 0.2)
        norm.bias.normal_(0, 0.2)
    # The statistics of real features first, so that activations stay sane whatever the depth.
    model.train()
    model(inputs_NCHW)
    for norm in norms:
        spread = norm.running_var.sqrt()
        norm.running_mean += 0.2 * spread * torch.randn_like(spread)
        norm.running_var *= torch.empty_like(spread).uniform_(0.7, 1.4)
    model.eval()


def _centre(head: Any, logits: torch.Tensor, spread: float) -> None:
    """Make the logits of a head of mean 0 and a given spread over some inputs."""
    dims = [dim for dim in range(logits.dim()) if dim != 1]
    centre, scale = logits.mean(dims), spread / logits.std()
    head.bias.sub_(centre).mul_(scale)
    head.weight.mul_(scale)


def loaded_from(model: nn.Module, folder: Path, size_px: tuple[int, int]) -> LoadedCheckpoint:
    """From a bare state dict, told nothing but sizes."""
    path = folder / "net.pt"
    torch.save(model.state_dict(), path)
    return load_checkpoint(path, given={"input_size_px": size_px, "frame_size_px": (2 * size_px[0], 2 * size_px[1])})


def require_same_as_smp(loaded: LoadedCheckpoint, model: nn.Module) -> None:
    """Our part logits, taken to the input's size as the spec says, are smp's own masks."""
    size_px = loaded.spec.input_size_px
    with torch.random.fork_rng():
        torch.manual_seed(1)
        inputs_NCHW = scenes(size_px)
    with torch.inference_mode():
        masks_NKHW, expected_NL = model(inputs_NCHW)
        class_logits_NL, part_logits_NKhw = loaded.network(inputs_NCHW)
        if loaded.spec.mask_upsampling == "align_corners":
            part_logits_NKhw = functional.interpolate(part_logits_NKhw, size_px, mode="bilinear", align_corners=True)
    assert masks_NKHW.shape[2:] == size_px
    torch.testing.assert_close(part_logits_NKhw, masks_NKHW, rtol=0, atol=1e-5)
    torch.testing.assert_close(class_logits_NL, expected_NL, rtol=0, atol=1e-5)
    # Otherwise the comparison says little.
    assert 0.02 < float((masks_NKHW > 0).float().mean()) < 0.98
    assert float(masks_NKHW.std()) > 0.5


def require_parity_of_export(loaded: LoadedCheckpoint, tta: Tta) -> None:
    """Rewritten and exported, ONNX Runtime answers like eager PyTorch without the rewrite."""
    spec = loaded.spec
    rewritten, reports = rewrite_network(loaded.network, skip_unproven=True)
    assert [(report.name, report.skipped) for report in reports if report.skipped] == []
    content = export_onnx(SealedGraph(rewritten, rewritten.spec, tta), spec.frame_size_px, facts={})
    rng = np.random.default_rng(0)
    random_HWC = rng.integers(0, 256, (*spec.frame_size_px, 3), dtype=np.uint8)
    blocks_HWC = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((spec.frame_size_px[0] // 8,) * 2 + (1,)))
    frames = (
        ParityFrame(name="random", kind="real", frame_HWC=random_HWC),
        ParityFrame(name="blocks", kind="real", frame_HWC=blocks_HWC.astype(np.uint8)),
        *adversarial_frames(spec.frame_size_px),
    )
    expected = expected_answers(SealedGraph(ViewByView(loaded.network), spec, tta), frames)
    assert len({case.answer.parts_HW.tobytes() for case in expected}) > 2
    backend = OnnxRuntimeBackend(content, threads=1, spinning=False)
    require_parity(check_parity("fp32", backend, expected, sha256="", tolerance=FP32_TOLERANCE))


POOLED = (
    ModelSpec(encoder="tu-tf_efficientnet_lite0", encoder_depth=4, part_head="shuffle"),
    ModelSpec(encoder="tu-fastvit_t8", architecture="FPN", decoder_options={}),
    ModelSpec(encoder="resnet18", architecture="Unet", decoder_options={}, part_thresholds=(0.4, 0.55)),
)
"""Classifiers that look at the parts: cut and shuffled, on features of a decoder that is resized, with a threshold that
is folded into the part logits."""


@torch.no_grad()
def pooled_checkpoint(spec: ModelSpec, folder: Path) -> LoadedCheckpoint:
    """A network of ours, with seeded weights and logits of both signs."""
    spec = replace(spec, class_pooling="mask", input_size_px=(64, 64), frame_size_px=(128, 128))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = MultiTaskNetwork(spec)
        inputs_NCHW = scenes(spec.input_size_px)
        randomise_norms(network, inputs_NCHW)
    *_, head = (module for module in network.segmentation_head if isinstance(module, nn.Conv2d))
    _centre(head, network(inputs_NCHW)[1], 3.0)
    _centre(network.classification_head.linear, network(inputs_NCHW)[0], 2.0)
    save_checkpoint(folder / "pooled.pt", network, training={})
    return load_checkpoint(folder / "pooled.pt")


@pytest.mark.parametrize("tta", ["none", "d4"])
@pytest.mark.parametrize("spec", POOLED, ids=lambda spec: f"{spec.encoder}-{spec.architecture}")
def test_a_class_pooled_under_the_mask_compiles_like_pytorch(spec: ModelSpec, tta: Tta, tmp_path: Path) -> None:
    loaded = pooled_checkpoint(spec, tmp_path)
    require_parity_of_export(loaded, tta)
    # The class is that of the parts: with other masks it is another answer.
    inputs_NCHW = scenes(loaded.spec.input_size_px)
    with torch.inference_mode():
        before_NL, _ = loaded.network(inputs_NCHW)
        loaded.network.spec = replace(loaded.spec, part_logit_offset=-4.0)
        after_NL, _ = loaded.network(inputs_NCHW)
    assert float((after_NL - before_NL).abs().max()) > 1e-3


@pytest.mark.parametrize(("encoder", "decoder"), pairs())
def test_a_bare_state_dict_is_identified_and_compiles_like_pytorch(encoder: str, decoder: str, tmp_path: Path) -> None:
    model = smp_model(encoder, decoder)
    loaded = loaded_from(model, tmp_path, input_size_px(decoder, {}))
    assert (loaded.spec.architecture, loaded.spec.encoder, loaded.format) == (decoder, encoder, "smp state dict")
    require_same_as_smp(loaded, model)
    require_parity_of_export(loaded, "none")


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        pytest.param(*pair, id="-".join(pair), marks=[] if pair in IN_EVERY_PRECISION else pytest.mark.slow)
        for pair in QUICK
    ],
)
def test_every_precision_finds_the_network_and_its_layers(encoder: str, decoder: str, tmp_path: Path) -> None:
    require_every_precision(loaded_from(smp_model(encoder, decoder), tmp_path, input_size_px(decoder, {})))


def test_every_precision_finds_a_classifier_that_looks_at_the_parts(tmp_path: Path) -> None:
    require_every_precision(pooled_checkpoint(POOLED[0], tmp_path))


def require_every_precision(loaded: LoadedCheckpoint) -> None:
    """Half precision and int8 can be made of the same layers with and without views, and answer soundly."""
    spec = loaded.spec
    ttas: tuple[Tta, ...] = ("none", "d4")
    models = {tta: export_model(SealedGraph(loaded.network, spec, tta), spec.frame_size_px) for tta in ttas}
    rng = np.random.default_rng(0)
    frames_HWC = [rng.integers(0, 256, (*spec.frame_size_px, 3), dtype=np.uint8)]
    largest = largest_magnitudes(models["none"], frames_HWC, threads=1)
    half = plan_half(models["none"], largest)
    layers = {tta: quantisable_layers(GraphView(model)) for tta, model in models.items()}
    assert [layer.key for layer in layers["none"]] == [layer.key for layer in layers["d4"]]
    assert len(layers["none"]) > 10
    scales = {layer.key: largest[layer.activation] / 127 for layer in layers["none"]}
    for tta, model in models.items():
        for reduced in (in_half(model, half), quantised(model, layers[tta], scales)):
            content = model_bytes(reduced, {})  # checked by onnx, and for TensorRT's rules
            answer = OnnxRuntimeBackend(content, threads=1, spinning=False).run(frames_HWC[0])
            assert impossible_output(answer, spec.frame_size_px) is None


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "decoder"), WITH_VIEWS)
def test_views_are_merged_like_in_pytorch_whatever_the_masks_geometry(
    encoder: str, decoder: str, tmp_path: Path
) -> None:
    loaded = loaded_from(smp_model(encoder, decoder), tmp_path, input_size_px(decoder, {}))
    require_parity_of_export(loaded, "d4")


@pytest.mark.slow
@pytest.mark.parametrize("encoder", STRIDE_32)
def test_an_encoder_without_dilation_is_identified_with_the_only_stride_it_has(encoder: str, tmp_path: Path) -> None:
    options = {"encoder_output_stride": 32}
    model = smp_model(encoder, "PAN", **options)
    loaded = loaded_from(model, tmp_path, input_size_px("PAN", options))
    assert loaded.spec.decoder_options["encoder_output_stride"] == 32
    assert "encoder_output_stride 32 (--decoder-options)" in loaded.assumed
    require_same_as_smp(loaded, model)
    require_parity_of_export(loaded, "none")


@pytest.mark.parametrize(("pair", "reason"), [pytest.param(*entry, id="-".join(entry[0])) for entry in REFUSED.items()])
def test_a_pair_that_smp_refuses_is_refused_in_one_sentence(pair: tuple[str, str], reason: str) -> None:
    encoder, decoder = pair
    with pytest.raises((ValueError, TypeError), match=re.escape(reason)):
        getattr(smp, decoder)(encoder_name=encoder, encoder_weights=None)
    with pytest.raises(CheckpointError, match=f"refuses {decoder} with encoder {encoder}: .*{re.escape(reason)}"):
        MultiTaskNetwork(ModelSpec(architecture=decoder, encoder=encoder, decoder_options={}))


def test_the_quick_pairs_cover_every_encoder_and_every_decoder() -> None:
    assert {encoder for encoder, _ in QUICK} == set(ENCODERS)
    assert {decoder for _, decoder in QUICK} == set(DECODERS)
    assert not set(QUICK) & set(REFUSED)
