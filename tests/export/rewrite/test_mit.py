"""The laid-out blocks against smp's, layer by layer."""

from __future__ import annotations

import collections
import platform
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from segmentation_models_pytorch.encoders import mix_transformer as smp_mit
from torch import nn

from spacecompile.export.rewrite.mit import ChannelNorm, image_from_tokens, tokens_from_image
from spacecompile.export.rewrite.mit_layout import _block


def _image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def _smp_block(**options: int) -> nn.Module:
    """One of smp's blocks with random norms and biases, where a fresh one has ones and zeros."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        block: nn.Module = smp_mit.Block(qkv_bias=True, **options)
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return block.double().eval()


def test_tokens_are_rows_of_pixels_and_go_back() -> None:
    image_NCHW = _image(2, 3, 4, 5)
    tokens_NLC = tokens_from_image(image_NCHW)
    assert torch.equal(tokens_NLC, image_NCHW.flatten(2).transpose(1, 2))
    assert torch.equal(image_from_tokens(tokens_NLC, (4, 5)), image_NCHW)


def test_a_channel_norm_normalises_every_pixel_over_its_channels() -> None:
    norm = nn.LayerNorm(6).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    image_NCHW = _image(2, 6, 4, 5)
    with torch.no_grad():
        seen_NCHW = ChannelNorm(norm)(image_NCHW)
        torch.testing.assert_close(seen_NCHW[1, :, 2, 3], norm(image_NCHW[1, :, 2, 3]), rtol=1e-12, atol=1e-12)
        assert seen_NCHW.shape == image_NCHW.shape


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"dim": 8, "num_heads": 1, "sr_ratio": 4}, id="one-head-reduced"),
        pytest.param({"dim": 12, "num_heads": 3, "sr_ratio": 2}, id="three-heads-reduced"),
        pytest.param({"dim": 12, "num_heads": 4, "sr_ratio": 1}, id="four-heads-not-reduced"),
    ],
)
def test_a_laid_out_block_gives_what_smps_gave(options: dict[str, int]) -> None:
    block = _smp_block(**options)
    image_NCHW = _image(2, options["dim"], 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(_block(block)(image_NCHW), block(image_NCHW), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(
    platform.machine().lower() not in {"x86_64", "amd64"},
    reason="ONNX Runtime merges transpositions into convolutions on x86 only",
)
def test_a_laid_out_block_moves_less_memory_in_onnx_runtime(tmp_path: Path) -> None:
    block = _smp_block(dim=32, num_heads=2, sr_ratio=2).float()
    moves = {
        name: _moves(module, tmp_path / name) for name, module in {"smp": block, "ours": _block(block).eval()}.items()
    }
    assert moves["ours"] < moves["smp"]


def _moves(block: nn.Module, path: Path) -> int:
    """Nodes that only move data, in the graph as ONNX Runtime executes it."""
    program = torch.onnx.export(block, (_image(1, 32, 32, 32).float(),), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3  # it warns that an optimised file fits this machine only
    onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    count = collections.Counter(node.op_type for node in onnx.load(path).graph.node)
    return count["Transpose"] + count["ReorderInput"] + count["ReorderOutput"]
