"""1x1 convolutions before upsampling instead of after."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from spacecompile.contract import ModelSpec
from spacecompile.export.rewrite import rewrite_network
from spacecompile.export.rewrite.base import in_float64
from spacecompile.export.rewrite.batchnorm import FoldBatchNorm
from spacecompile.export.rewrite.dropout import RemoveDropout
from spacecompile.export.rewrite.proof import PassProofSettings, relative_errors
from spacecompile.export.rewrite.traced import TracedDecoder, traced
from spacecompile.export.rewrite.upsampling import MovePointwiseFirst
from spacecompile.network.model import MultiTaskNetwork

SETTINGS = PassProofSettings(input_size_px=(64, 128))


class Toy(MultiTaskNetwork):
    """An encoder with features at half and quarter size, and the decoder of a subclass below it."""

    def __init__(self, decoder: nn.Module) -> None:
        nn.Module.__init__(self)
        self.spec = ModelSpec(input_size_px=(64, 64))
        self.encoder = Encoder()
        self.decoder = decoder
        self.segmentation_head = nn.Sequential(nn.Conv2d(4, 2, 3, padding=1), nn.Identity())
        self.classification_head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.box_head = None
        self.double().eval()


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_half, self.to_quarter = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 8, 2, stride=2)

    def forward(self, input_NCHW: Tensor) -> list[Tensor]:
        half_NCHW = self.to_half(input_NCHW)
        return [half_NCHW, self.to_quarter(half_NCHW)]


class Decoder(nn.Module):
    """Upsampling, then a 1x1 convolution."""

    def __init__(self, *, convolution: nn.Module | None = None, resize: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.conv = convolution or nn.Conv2d(self.channels(), 4, 1)
        self.resize = resize or {"mode": "bilinear", "align_corners": True}

    def channels(self) -> int:
        return 8

    def up(self, feature_NCHW: Tensor) -> Tensor:
        return functional.interpolate(feature_NCHW, scale_factor=2.0, **self.resize)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.conv(self.joined(*features))

    def joined(self, _half_NCHW: Tensor, quarter_NCHW: Tensor) -> Tensor:
        return self.up(quarter_NCHW)


class WithModule(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.upsample = nn.UpsamplingBilinear2d(scale_factor=2)

    def up(self, feature_NCHW: Tensor) -> Tensor:
        return self.upsample(feature_NCHW)


class ToSize(Decoder):
    def joined(self, half_NCHW: Tensor, quarter_NCHW: Tensor) -> Tensor:
        height, width = half_NCHW.shape[2:]
        return functional.interpolate(quarter_NCHW, size=(height, width), mode="nearest")


class Beside(Decoder):
    def channels(self) -> int:
        return 16

    def joined(self, half_NCHW: Tensor, quarter_NCHW: Tensor) -> Tensor:
        return torch.cat([half_NCHW, self.up(quarter_NCHW)], dim=1)


class Added(Decoder):
    def joined(self, half_NCHW: Tensor, quarter_NCHW: Tensor) -> Tensor:
        return half_NCHW + self.up(quarter_NCHW) + self.up(quarter_NCHW.abs())


class Stacked(Decoder):
    def joined(self, half_NCHW: Tensor, quarter_NCHW: Tensor) -> Tensor:
        return torch.stack([half_NCHW, self.up(quarter_NCHW)]).sum(dim=0)


class FromOnePixel(Beside):
    def joined(self, half_NCHW: Tensor, quarter_NCHW: Tensor) -> Tensor:
        pixel_NC11 = functional.adaptive_avg_pool2d(quarter_NCHW, 1)
        return torch.cat([half_NCHW, functional.interpolate(pixel_NC11, size=half_NCHW.shape[2:], mode="bilinear")], 1)


class OnlyOnePixel(Decoder):
    def joined(self, half_NCHW: Tensor, quarter_NCHW: Tensor) -> Tensor:
        pixel_NC11 = functional.adaptive_avg_pool2d(quarter_NCHW, 1)
        return functional.interpolate(pixel_NC11, size=half_NCHW.shape[2:], mode="bilinear")


class Twice(Decoder):
    """Moved before the second upsampling, the convolution meets the first."""

    def joined(self, _half_NCHW: Tensor, quarter_NCHW: Tensor) -> Tensor:
        return self.up(self.up(quarter_NCHW))


class ReadTwice(Decoder):
    def forward(self, features: list[Tensor]) -> Tensor:
        up_NCHW = self.up(features[1])
        return self.conv(up_NCHW) + up_NCHW.mean(dim=1, keepdim=True)


class CalledTwice(Decoder):
    def forward(self, features: list[Tensor]) -> Tensor:
        return self.conv(self.up(features[1])) + self.conv(features[0])


class Activated(Decoder):
    def joined(self, _half_NCHW: Tensor, quarter_NCHW: Tensor) -> Tensor:
        return self.up(quarter_NCHW).relu()


class Reduced(Decoder):
    def joined(self, half_NCHW: Tensor, _quarter_NCHW: Tensor) -> Tensor:
        return functional.interpolate(half_NCHW, scale_factor=0.5, mode="bilinear")


class AlongTheWidth(Decoder):
    def joined(self, half_NCHW: Tensor, quarter_NCHW: Tensor) -> Tensor:
        return torch.cat([half_NCHW, self.up(quarter_NCHW)], dim=3)


class ByValue(Decoder):
    def forward(self, features: list[Tensor]) -> Tensor:
        return self.conv(self.up(features[1] if features[1].sum() > 0 else -features[1]))


BILINEAR = {"mode": "bilinear", "align_corners": False}


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(Decoder, id="aligned-corners"),
        pytest.param(lambda: Decoder(resize=BILINEAR), id="half-pixel"),
        pytest.param(lambda: Decoder(resize={"mode": "nearest"}), id="nearest"),
        pytest.param(lambda: Decoder(convolution=nn.Conv2d(8, 4, 1, bias=False)), id="no-bias"),
        pytest.param(WithModule, id="module"),
        pytest.param(ToSize, id="to-a-size"),
        pytest.param(Beside, id="concatenated"),
        pytest.param(Added, id="added"),
        pytest.param(Stacked, id="stacked-and-summed"),
        pytest.param(FromOnePixel, id="one-pixel"),
        pytest.param(OnlyOnePixel, id="one-pixel-alone"),
        pytest.param(Twice, id="two-upsamplings"),
    ],
)
def test_a_convolution_moves_before_an_upsampling_and_nothing_changes(make: Callable[[], Decoder]) -> None:
    network, report = MovePointwiseFirst().run(Toy(make()), settings=SETTINGS)
    assert report.changed
    assert report.relative_error <= 1e-12
    assert report.after.macs_fvcore < report.before.macs_fvcore
    assert report.after.params == report.before.params
    assert not MovePointwiseFirst().requires(network)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Decoder(convolution=nn.Conv2d(8, 4, 3, padding=1)), id="3x3"),
        pytest.param(lambda: Decoder(convolution=nn.Conv2d(8, 4, 1, stride=2)), id="stride"),
        pytest.param(lambda: Decoder(convolution=nn.Conv2d(8, 4, 1, groups=2)), id="groups"),
        pytest.param(
            lambda: Decoder(convolution=nn.Sequential(nn.Conv2d(8, 32, 1), nn.ReLU(), nn.Conv2d(32, 4, 1))),
            id="more-channels",
        ),
        pytest.param(lambda: Decoder(resize={"mode": "bicubic"}), id="bicubic"),
        pytest.param(ReadTwice, id="upsampled-read-twice"),
        pytest.param(CalledTwice, id="convolution-called-twice"),
        pytest.param(Activated, id="activation-between"),
        pytest.param(Reduced, id="resized-down"),
        pytest.param(AlongTheWidth, id="concatenated-along-the-width"),
        pytest.param(ByValue, id="branch-on-a-value"),
    ],
)
def test_anything_else_is_left_alone(make: Callable[[], Decoder]) -> None:
    assert not MovePointwiseFirst().requires(Toy(make()))


RESULTS = {
    "FPN": True,
    "DeepLabV3": True,
    "DeepLabV3Plus": True,
    # Its pooled branches have a quarter of the encoder's channels and the convolution 512 outputs.
    "PSPNet": False,
    "PAN": False,
    "Unet": False,
    "UnetPlusPlus": False,
    "Linknet": False,
    "MAnet": False,
    "UPerNet": False,
    "Segformer": False,
}


@pytest.mark.parametrize("architecture", RESULTS)
def test_which_decoders_of_smp_have_it(make_network: Callable[..., MultiTaskNetwork], architecture: str) -> None:
    source = make_network(
        architecture=architecture, encoder="resnet18", decoder_options={}, input_size_px=(128, 128), dropout=0.0
    )
    passes = (RemoveDropout(), FoldBatchNorm(), MovePointwiseFirst())
    network, reports = rewrite_network(source, passes=passes)
    report = reports[-1]
    assert report.changed == RESULTS[architecture]
    assert report.relative_error <= 1e-9
    if report.changed:
        assert report.relative_error > 0.0
        assert report.after.macs_fvcore < report.before.macs_fvcore
        assert report.after.params == report.before.params
        assert isinstance(network.decoder, TracedDecoder)


def test_the_pyramids_head_moves_into_the_decoder_and_one_upsampling_is_left(
    make_network: Callable[..., MultiTaskNetwork],
) -> None:
    source = make_network(architecture="FPN", encoder="resnet18", decoder_options={})
    network, _ = rewrite_network(source, passes=(RemoveDropout(), MovePointwiseFirst()))
    assert isinstance(network.segmentation_head, nn.Identity)
    program = torch.onnx.export(network, (torch.zeros(1, 3, 64, 64),), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    model = onnx.shape_inference.infer_shapes(program.model_proto)
    shape_of = {info.name: info.type.tensor_type.shape for info in model.graph.value_info}
    resized = [shape_of[node.output[0]].dim[1].dim_value for node in model.graph.node if node.op_type == "Resize"]
    # Three of the pyramid, two and one inside its branches, and the one of two parts for all branches together.
    assert sorted(resized) == [2, 128, 128, 128, 256, 256, 256]


def test_a_moved_network_takes_any_size_and_survives_a_copy(make_network: Callable[..., MultiTaskNetwork]) -> None:
    source = in_float64(make_network(architecture="DeepLabV3Plus", encoder="resnet18", decoder_options={}))
    network = copy.deepcopy(MovePointwiseFirst().apply(in_float64(source)))
    assert isinstance(network.decoder, TracedDecoder)
    errors = relative_errors(source, network, PassProofSettings(input_size_px=(192, 128)))
    assert max(errors.values()) <= 1e-9


def test_a_decoder_that_branches_on_values_has_no_graph() -> None:
    toy = Toy(ByValue())
    assert traced(toy, toy.decoder) is None
    toy = Toy(Decoder())
    assert traced(toy, toy.decoder) is not None
