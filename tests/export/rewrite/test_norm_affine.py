"""Folding of layer norms' gains and shifts, judged by what the network does."""

from __future__ import annotations

import copy
from collections.abc import Callable

import onnx
import pytest
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional

from spacecompile.export.rewrite import PASSES, rewrite_network
from spacecompile.export.rewrite.base import in_float64
from spacecompile.export.rewrite.mit import Block, SingleHeadAttention
from spacecompile.export.rewrite.norm_affine import FoldNormAffine
from spacecompile.export.rewrite.proof import PassProofSettings, relative_errors
from spacecompile.network.model import MultiTaskNetwork


class Toy(nn.Module):
    """Layer norm over the channels of an image, then what a subclass wires."""

    def __init__(self, reader: nn.Module | None = None, *, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = norm or LayerNorm2d(8)
        self.reader = reader or nn.Conv2d(8, 5, 1)
        for name, parameter in self.norm.named_parameters():
            nn.init.normal_(parameter, 1.0 if name == "weight" else 0.0)
        self.double().eval()

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        result = self.wired(self.norm(self.stem(input_NCHW)))
        return result.flatten(1).mean(dim=1, keepdim=True), result

    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW)


class OnTokens(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW.flatten(2).transpose(1, 2))


class OnFirstToken(OnTokens):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW.flatten(2).transpose(1, 2)[:, 0])


class InWindows(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        batch, channels, height, width = image_NCHW.shape
        tokens = torch.roll(image_NCHW.permute(0, 2, 3, 1), (1, 1), (1, 2))
        windows = tokens.view(batch, height // 4, 4, width // 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
        return self.reader(windows.reshape(-1, 16, channels))


class Pooled(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(functional.adaptive_avg_pool2d(image_NCHW, 1).flatten(1))


class Resized(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(functional.interpolate(image_NCHW, scale_factor=2.0, mode="bilinear", align_corners=True))


class PooledWithPadding(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(functional.avg_pool2d(image_NCHW, 3, padding=1))


class ChannelsMixedUp(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW.reshape(image_NCHW.shape[0], -1, 8))


class ChannelsTurnedRound(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW.flip(1))


class ReadTwice(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW) + image_NCHW.mean()


class ReadByTwoLayers(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(8, 5, dtype=torch.float64)

    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW) + self.second(input=image_NCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ReaderCalledTwice(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW) + self.reader(image_NCHW.abs())


class ReaderUsedAsFunction(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW) + functional.conv2d(image_NCHW.abs(), self.reader.weight)


class Returned(Toy):
    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        image_NCHW = self.norm(self.stem(input_NCHW))
        return self.reader(image_NCHW).mean(dim=(2, 3)), image_NCHW


class SharedNorm(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW) + self.reader(self.norm(image_NCHW.abs()))


class SharedWeight(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(8, 5, 1, dtype=torch.float64)
        self.second.weight = self.reader.weight

    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW) + self.second(image_NCHW.abs())


class ChangedInPlace(Toy):
    def wired(self, image_NCHW: Tensor) -> Tensor:
        return self.reader(image_NCHW.mul_(2.0))


class Scaled(nn.Conv2d):
    """A subclass that does more than its base."""

    def forward(self, input_NCHW: Tensor) -> Tensor:
        return super().forward(input_NCHW.abs())


FOLDABLE = [
    pytest.param(Toy, id="pointwise-convolution"),
    pytest.param(lambda: Toy(nn.Conv2d(8, 5, 2, stride=2)), id="unpadded-convolution"),
    pytest.param(lambda: Toy(nn.Conv2d(8, 5, 1, bias=False)), id="without-bias"),
    pytest.param(lambda: Toy(norm=LayerNorm2d(8, bias=False)), id="norm-without-shift"),
    pytest.param(lambda: OnTokens(nn.Linear(8, 5)), id="tokens"),
    pytest.param(lambda: OnFirstToken(nn.Linear(8, 5)), id="one-token"),
    pytest.param(lambda: InWindows(nn.Linear(8, 5)), id="windows"),
    pytest.param(lambda: Pooled(nn.Linear(8, 5)), id="through-pooling"),
    pytest.param(Resized, id="through-resizing"),
    pytest.param(ReadByTwoLayers, id="two-layers"),
]
LEFT_ALONE = [
    pytest.param(lambda: Toy(nn.Conv2d(8, 5, 3, padding=1)), id="zero-padding"),
    pytest.param(lambda: Toy(nn.Conv2d(8, 5, 3, padding="same")), id="same-padding"),
    pytest.param(lambda: Toy(nn.Conv2d(8, 8, 1, groups=2)), id="groups"),
    pytest.param(lambda: Toy(nn.Conv2d(8, 99, 1, bias=False)), id="more-biases-than-gains"),
    pytest.param(lambda: Toy(nn.Sequential(nn.ReLU(), nn.Conv2d(8, 5, 1))), id="activation-between"),
    pytest.param(lambda: Toy(Scaled(8, 5, 1)), id="subclass"),
    pytest.param(lambda: Toy(norm=LayerNorm2d(8, affine=False)), id="norm-without-gain"),
    pytest.param(PooledWithPadding, id="padded-pooling"),
    pytest.param(lambda: ChannelsMixedUp(nn.Linear(8, 5)), id="channels-mixed-up"),
    pytest.param(ChannelsTurnedRound, id="channels-turned-round"),
    pytest.param(ReadTwice, id="read-twice"),
    pytest.param(ReaderCalledTwice, id="reader-called-twice"),
    pytest.param(ReaderUsedAsFunction, id="reader-used-as-a-function"),
    pytest.param(Returned, id="returned"),
    pytest.param(SharedNorm, id="shared-norm"),
    pytest.param(SharedWeight, id="shared-weight"),
    pytest.param(ChangedInPlace, id="changed-in-place"),
]


@pytest.mark.parametrize("make", FOLDABLE)
def test_a_norm_that_linear_layers_alone_read_gives_plain_values_and_nothing_changes(make: Callable[[], Toy]) -> None:
    before = make()
    after = FoldNormAffine().apply(copy.deepcopy(before))
    assert after.norm.weight is None
    assert after.norm.bias is None
    errors = relative_errors(before, after, PassProofSettings(input_size_px=(64, 128)))
    assert max(errors.values()) <= 1e-12
    assert not FoldNormAffine().requires(after)


@pytest.mark.parametrize("make", LEFT_ALONE)
def test_a_norm_that_anything_else_reads_is_left_alone(make: Callable[[], Toy]) -> None:
    assert not FoldNormAffine().requires(make())


def test_looking_leaves_no_hook_behind() -> None:
    toy = Toy()
    FoldNormAffine().requires(toy)
    assert not toy.reader._forward_hooks
    assert not toy.reader._forward_pre_hooks


def _affine_norms(network: nn.Module) -> set[str]:
    return {path for path, module in network.named_modules() if getattr(module, "elementwise_affine", False)}


def test_the_reference_network_keeps_only_the_norms_that_need_their_affine(reference_network: MultiTaskNetwork) -> None:
    earlier, _ = rewrite_network(
        reference_network, passes=PASSES[: [step.name for step in PASSES].index("fold_norm_affine")]
    )
    network, report = FoldNormAffine().run(earlier)
    single_heads = {
        f"{path}.attention_norm"
        for path, module in network.named_modules()
        if isinstance(module, Block) and isinstance(module.attention, SingleHeadAttention)
    }
    # Between stages stands a convolution with zero padding.
    between_stages = {f"encoder.patch_embed{stage}.norm.norm" for stage in (1, 2, 3, 4)}
    padded = {f"encoder.norm{stage}.norm" for stage in (1, 2, 3)}
    assert _affine_norms(network) == single_heads | between_stages | padded
    assert 0.0 < report.relative_error <= 1e-9
    assert report.after.params < report.before.params
    assert report.after.macs_fvcore < report.before.macs_fvcore
    assert report.after.macs_torch == report.before.macs_torch


@pytest.mark.parametrize("encoder", ["tu-convnext_atto", "tu-pvt_v2_b0"])
def test_encoders_of_timm_prove_themselves(make_network: Callable[..., MultiTaskNetwork], encoder: str) -> None:
    before = in_float64(make_network(architecture="FPN", encoder=encoder, decoder_options={}))
    after = FoldNormAffine().apply(copy.deepcopy(before))
    assert len(_affine_norms(after)) < len(_affine_norms(before))
    assert max(relative_errors(before, after, PassProofSettings()).values()) <= 1e-9


def test_a_folded_norm_is_still_a_layer_normalization_in_onnx() -> None:
    toy = FoldNormAffine().apply(OnTokens(nn.Linear(8, 5))).float()
    program = torch.onnx.export(toy, (torch.zeros(1, 3, 16, 16),), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    assert [node.op_type for node in model.graph.node].count("LayerNormalization") == 1
    assert "Sqrt" not in {node.op_type for node in model.graph.node}
