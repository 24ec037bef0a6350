"""Frame to input: area averages at whole ratios, no shift at any ratio."""

from __future__ import annotations

import pytest
import torch

from spacecompile.network.preprocess import input_from_frame, normalised, pooling_ratio


@pytest.mark.parametrize(
    ("frame_px", "input_px", "ratio"),
    [(1024, 512, 2), (1024, 256, 4), (512, 512, 1), (256, 512, 1), (1000, 512, 2), (700, 512, 1), (768, 512, 2)],
)
def test_pooling_ratio_is_the_nearest_whole_one(frame_px: int, input_px: int, ratio: int) -> None:
    assert pooling_ratio(frame_px, input_px) == ratio


def test_a_whole_ratio_is_the_mean_of_each_block() -> None:
    frames_NCHW = torch.randint(0, 256, (2, 3, 192, 128), generator=torch.Generator().manual_seed(0)).float()
    reduced_NCHW = input_from_frame(frames_NCHW, (64, 64))
    blocks = frames_NCHW.reshape(2, 3, 64, 3, 64, 2).mean((3, 5))
    assert torch.allclose(reduced_NCHW, blocks)


def test_a_frame_of_the_inputs_size_passes_unchanged() -> None:
    frames_NCHW = torch.rand(1, 3, 64, 96)
    assert input_from_frame(frames_NCHW, (64, 96)) is frames_NCHW


@pytest.mark.parametrize("frame_size_px", [(200, 168), (90, 70), (129, 191), (50, 40), (64, 64), (256, 130)])
def test_no_ratio_shifts_or_crops_the_picture(frame_size_px: tuple[int, int]) -> None:
    """A ramp over the whole frame keeps its values at the same relative places."""
    height_px, width_px = frame_size_px
    rows_H = (torch.arange(height_px) + 0.5) / height_px
    columns_W = (torch.arange(width_px) + 0.5) / width_px
    frame_NCHW = torch.stack([rows_H[:, None].expand(-1, width_px), columns_W.expand(height_px, -1)])[None]
    reduced_NCHW = input_from_frame(frame_NCHW, (64, 64))
    assert reduced_NCHW.shape == (1, 2, 64, 64)
    expected_64 = (torch.arange(64) + 0.5) / 64
    inner = slice(2, -2)  # bilinear sampling repeats the outermost pixels
    assert torch.allclose(reduced_NCHW[0, 0, inner, 0], expected_64[inner], atol=1e-5)
    assert torch.allclose(reduced_NCHW[0, 1, 0, inner], expected_64[inner], atol=1e-5)


def test_normalised_centres_and_scales_each_channel() -> None:
    mean, std = (0.27, 0.26, 0.28), (0.19, 0.19, 0.24)
    frames_NCHW = torch.rand(2, 3, 4, 4) * 255
    expected_NCHW = (frames_NCHW / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(normalised(frames_NCHW, mean, std), expected_NCHW, atol=1e-5)
