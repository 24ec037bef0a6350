from __future__ import annotations

import pytest
import torch

from spacecompile.contract import ModelSpec
from spacecompile.export.sealed.frame_to_input import FrameToInput
from spacecompile.network.preprocess import input_from_frame, normalised

SIZES = [
    pytest.param((128, 128), (64, 64), id="whole ratio 2"),
    pytest.param((192, 320), (64, 64), id="whole ratios 3 and 5"),
    pytest.param((64, 96), (64, 96), id="no reduction"),
    pytest.param((200, 168), (64, 64), id="ratios that are not whole"),
    pytest.param((48, 40), (64, 64), id="frame smaller than the input"),
    pytest.param((128, 100), (64, 64), id="whole along one axis only"),
]


def spec_of(frame_size_px: tuple[int, int], input_size_px: tuple[int, int]) -> ModelSpec:
    return ModelSpec(
        input_size_px=input_size_px, frame_size_px=frame_size_px, mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4)
    )


@pytest.mark.parametrize(("frame_size_px", "input_size_px"), SIZES)
def test_the_graph_reduces_frames_exactly_as_training_does(
    frame_size_px: tuple[int, int], input_size_px: tuple[int, int]
) -> None:
    spec = spec_of(frame_size_px, input_size_px)
    generator = torch.Generator().manual_seed(3)
    frame_HWC = torch.randint(0, 256, (*frame_size_px, 3), generator=generator).float()
    trained_on = normalised(input_from_frame(frame_HWC.permute(2, 0, 1)[None], input_size_px), spec.mean, spec.std)
    given = FrameToInput(spec)(frame_HWC)
    assert given.shape == (1, 3, *input_size_px)
    torch.testing.assert_close(given, trained_on, rtol=0, atol=4e-6)


def test_channels_keep_their_own_mean_and_deviation() -> None:
    spec = spec_of((128, 128), (64, 64))
    frame_HWC = torch.tensor([51.0, 102.0, 153.0]).expand(128, 128, 3)
    expected = [(0.2 - 0.1) / 0.2, (0.4 - 0.2) / 0.3, (0.6 - 0.3) / 0.4]
    torch.testing.assert_close(FrameToInput(spec)(frame_HWC)[0, :, 5, 7], torch.tensor(expected))
