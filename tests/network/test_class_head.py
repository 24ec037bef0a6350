"""The classifier that looks at the parts: a weighted mean, no gradient into the masks, the same in every stage."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from spacecompile.contract import ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.network.class_head import FLOOR_PX, MaskPooledClassifier, pooled_under
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train.fused_decoder import TrainingForward

SPEC = ModelSpec(encoder="tu-test_resnet", encoder_depth=4, input_size_px=(64, 96), class_pooling="mask", dropout=0.0)


@pytest.fixture
def network() -> MultiTaskNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MultiTaskNetwork(SPEC).eval()


def test_it_is_the_weighted_mean_of_the_features() -> None:
    rng = np.random.default_rng(0)
    weights_NKHW, features_NChw = rng.random((2, 2, 8, 12)), rng.standard_normal((2, 5, 4, 6))
    pooled_N2C = pooled_under(torch.tensor(weights_NKHW), torch.tensor(features_NChw)).reshape(2, 2, 5).numpy()
    for frame in range(2):
        for part in range(2):
            cells_hw = weights_NKHW[frame, part].reshape(4, 2, 6, 2).mean((1, 3))
            sums_C = (features_NChw[frame] * cells_hw).sum((1, 2))
            expected_C = sums_C / (cells_hw.sum() + FLOOR_PX / 4)  # four weights to a place
            np.testing.assert_allclose(pooled_N2C[frame, part], expected_C, rtol=1e-12)


def test_without_a_part_nothing_is_pooled_and_nothing_divided_by_zero() -> None:
    pooled = pooled_under(torch.zeros(1, 2, 8, 8), torch.randn(1, 3, 4, 4))
    assert torch.equal(pooled, torch.zeros(1, 6))


@pytest.mark.parametrize("covered", [1, 128 * 128], ids=["one-pixel", "whole-frame"])
def test_half_precision_holds_one_pixel_and_a_whole_frame(covered: int) -> None:
    weights_NKHW = torch.zeros(1, 1, 128, 128)
    weights_NKHW.flatten()[:covered] = 1
    features_NChw = torch.full((1, 4, 128, 128), 6.0)
    exact, half = (
        pooled_under(weights_NKHW.to(dtype), features_NChw.to(dtype)) for dtype in (torch.float64, torch.float16)
    )
    torch.testing.assert_close(half.double(), exact, rtol=2e-3, atol=0)


@pytest.mark.parametrize("logit", [-1.2, -6.0, -9.0, -12.0])
def test_the_tails_of_an_empty_mask_weigh_nothing_in_any_precision(network: MultiTaskNetwork, logit: float) -> None:
    """16,384 probabilities of 6e-6 add up to a tenth of a pixel, and half precision has lost most of them."""
    head = network.classification_head
    deepest_NChw, decoded_NChw = torch.randn(1, head.embed.in_channels, 32, 32), torch.randn(1, 128, 64, 64)
    part_logits_NKHW = torch.full((1, 2, 64, 64), logit)
    assert torch.equal(head(deepest_NChw, decoded_NChw, part_logits_NKHW)[0], head.linear.bias)
    halves = (tensor.half() for tensor in (deepest_NChw, decoded_NChw, part_logits_NKHW))
    assert torch.equal(head.half()(*halves)[0], head.linear.bias)


def test_sides_that_are_no_multiples_are_refused_in_words() -> None:
    with pytest.raises(CheckpointError, match="multiple of 64"):
        pooled_under(torch.zeros(1, 2, 10, 8), torch.zeros(1, 3, 4, 4))


def test_the_class_loss_does_not_bend_the_masks(network: MultiTaskNetwork) -> None:
    class_logits_NL, _ = network(torch.randn(1, 3, 64, 96))
    class_logits_NL.square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in network.segmentation_head.parameters())
    assert all(parameter.grad is not None for parameter in network.classification_head.parameters())
    assert next(network.decoder.parameters()).grad is not None


def test_training_computes_what_ships(network: MultiTaskNetwork) -> None:
    input_NCHW = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for trained, shipped in zip(TrainingForward(network)(input_NCHW), network(input_NCHW), strict=True):
            torch.testing.assert_close(trained, shipped, rtol=1e-4, atol=1e-4)


def test_what_weighs_are_true_probabilities_where_a_rewrite_shifts_the_logits(network: MultiTaskNetwork) -> None:
    input_NCHW = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, _ = network(input_NCHW)
        network.segmentation_head[0].bias.sub_(1.5)
        network.spec = msgspec.structs.replace(network.spec, part_logit_offset=1.5)
        after, _ = network(input_NCHW)
    torch.testing.assert_close(after, before)


def test_a_mean_network_is_smp_s_own() -> None:
    network = MultiTaskNetwork(msgspec.structs.replace(SPEC, class_pooling="mean"))
    assert not isinstance(network.classification_head, MaskPooledClassifier)
    assert type(network.classification_head).__module__.startswith("segmentation_models_pytorch")
