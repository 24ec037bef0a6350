"""Folding of the attention scale and of a single head's projections."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from spacecompile.export.rewrite.base import in_float64
from spacecompile.export.rewrite.mit import Block, MultiHeadAttention, Reduction, SingleHeadAttention
from spacecompile.export.rewrite.mit_attention import FoldAttentionScale, FoldSingleHead, _fold, _is_foldable
from spacecompile.export.rewrite.mit_layout import LayOutMit
from spacecompile.network.model import MultiTaskNetwork


@pytest.fixture(scope="module")
def laid_out(reference_network: MultiTaskNetwork) -> MultiTaskNetwork:
    """Shared: no test may change it."""
    return LayOutMit().apply(in_float64(reference_network))


def _blocks(network: nn.Module) -> list[Block]:
    return [module for module in network.modules() if isinstance(module, Block)]


def test_no_attention_scales_its_scores_any_more(laid_out: MultiTaskNetwork) -> None:
    network, report = FoldAttentionScale().run(laid_out)
    scales = [block.attention.scale for block in _blocks(network)]
    assert scales == [1.0] * 8
    assert 0.0 < report.relative_error <= 1e-9
    assert not FoldAttentionScale().requires(network)


@pytest.mark.parametrize("scale_first", [True, False], ids=["after-the-scale", "with-the-scale"])
def test_a_single_head_folds_with_its_scale_wherever_it_is(laid_out: MultiTaskNetwork, scale_first: bool) -> None:
    network = FoldAttentionScale().apply(copy.deepcopy(laid_out)) if scale_first else laid_out
    folded, report = FoldSingleHead().run(network)
    kinds = [type(block.attention) for block in _blocks(folded)]
    assert kinds == [SingleHeadAttention] * 2 + [MultiHeadAttention] * 6
    assert report.before.params - report.after.params == 2 * 2 * (32 * 32 + 32)
    # Two projections of 32 to 32 channels on the 16 x 16 tokens of a 64 px input, in two blocks.
    assert report.before.macs_torch - report.after.macs_torch == 2 * 2 * 16 * 16 * 32 * 32
    assert 0.0 < report.relative_error <= 1e-9
    assert not FoldSingleHead().requires(folded)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_a_folded_block_gives_the_same_for_any_norm(laid_out: MultiTaskNetwork, bias: bool) -> None:
    block = copy.deepcopy(_blocks(laid_out)[0])
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor in (block.attention_norm.weight, block.attention_norm.bias, block.attention.query.bias):
            tensor.copy_(3.0 * torch.randn(32, generator=generator, dtype=torch.float64))
        if not bias:
            block.attention.reduction.convolution.bias = None
        image_NCHW = torch.randn(2, 32, 16, 24, generator=generator, dtype=torch.float64)
        expected_NCHW = block(image_NCHW)
        _fold(block)
        torch.testing.assert_close(block(image_NCHW), expected_NCHW, rtol=1e-10, atol=1e-10)


def _padded(block: Block) -> None:
    convolution = nn.Conv2d(32, 32, 8, stride=8, padding=1)
    block.attention.reduction = Reduction(convolution, block.attention.reduction.norm)


def _unreduced(block: Block) -> None:
    block.attention.reduction = None


def _two_heads(block: Block) -> None:
    block.attention.num_heads = 2


@pytest.mark.parametrize("change", [_padded, _unreduced, _two_heads])
def test_an_attention_without_the_pattern_is_left_alone(
    laid_out: MultiTaskNetwork, change: Callable[[Block], None]
) -> None:
    block = copy.deepcopy(_blocks(laid_out)[0])
    assert _is_foldable(block)
    change(block)
    assert not _is_foldable(block)


def test_a_network_without_laid_out_blocks_is_left_alone(reference_network: MultiTaskNetwork) -> None:
    assert not FoldAttentionScale().requires(reference_network)
    assert not FoldSingleHead().requires(reference_network)
