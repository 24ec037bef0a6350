"""Augmentation moves frame and coverage together and loses nothing that it need not lose."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spacecompile.train.augment import SETTINGS, AugmentSettings, augmented

FLIPS_ONLY = AugmentSettings(rotated_share=0.0)


def random_pixels(frames: int, height_px: int, width_px: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (frames, 5, height_px, width_px), generator=generator).float()


def d4_images(pixels_CHW: torch.Tensor) -> list[torch.Tensor]:
    turned = [pixels_CHW.rot90(turns, (1, 2)) for turns in range(4)]
    return turned + [view.flip(2) for view in turned]


def test_flips_and_quarter_turns_keep_every_pixel_and_reach_all_eight_views() -> None:
    pixels_NCHW = random_pixels(1, 16, 16).expand(200, -1, -1, -1)
    moved_NCHW = augmented(pixels_NCHW, FLIPS_ONLY, torch.Generator().manual_seed(0))
    views = d4_images(pixels_NCHW[0])
    seen = [[torch.allclose(moved, view, atol=1e-2) for view in views].index(True) for moved in moved_NCHW]
    assert set(seen) == set(range(8))


def test_an_input_that_is_not_square_is_never_turned_by_a_quarter() -> None:
    pixels_NCHW = random_pixels(1, 16, 24).expand(100, -1, -1, -1)
    moved_NCHW = augmented(pixels_NCHW, FLIPS_ONLY, torch.Generator().manual_seed(0))
    original = pixels_NCHW[0]
    views = [original, original.flip(1), original.flip(2), original.flip(1, 2)]
    seen = [[torch.allclose(moved, view, atol=1e-2) for view in views].index(True) for moved in moved_NCHW]
    assert set(seen) == set(range(4))


@pytest.mark.parametrize("size_px", [(64, 64), (64, 96)], ids=["square", "wide"])
def test_rotation_keeps_shapes_in_pixels(size_px: tuple[int, int]) -> None:
    """A disc off the centre stays a disc of the same area, at the same distance from the centre."""
    height_px, width_px = size_px
    rows_H1, columns_1W = torch.arange(height_px)[:, None] + 0.5, torch.arange(width_px)[None] + 0.5
    disc_HW = ((rows_H1 - 32) ** 2 + (columns_1W - width_px / 2 - 16) ** 2 < 36).float() * 255
    pixels_NCHW = disc_HW.expand(20, 5, -1, -1)
    settings = AugmentSettings(flips=False, rotated_share=1.0, rotation_deg=45.0)
    moved_NHW = augmented(pixels_NCHW, settings, torch.Generator().manual_seed(3))[:, 4]
    area_N = moved_NHW.sum((1, 2))
    row_N = (moved_NHW * rows_H1).sum((1, 2)) / area_N - 32
    column_N = (moved_NHW * columns_1W).sum((1, 2)) / area_N - width_px / 2
    assert torch.allclose(area_N, disc_HW.sum().expand(20), rtol=0.02)
    assert torch.allclose((row_N**2 + column_N**2).sqrt(), torch.tensor(16.0).expand(20), atol=0.1)
    assert row_N.min() < -5
    assert row_N.max() > 5


@pytest.mark.parametrize("level", ["light", "medium"])
def test_coverage_moves_with_the_frame(level: str) -> None:
    pixels_NCHW = torch.zeros(32, 5, 48, 48)
    pixels_NCHW[:, :, 10:30, 15:40] = 255
    quiet = replace(SETTINGS[level], gain=(1.0, 1.0), noise=0.0)
    moved_NCHW = augmented(pixels_NCHW, quiet, torch.Generator().manual_seed(1))
    assert torch.equal(moved_NCHW[:, 0], moved_NCHW[:, 3])
    assert len(moved_NCHW[:, 3].unique(dim=0)) > 16


def test_exposure_and_noise_leave_coverage_alone_and_stay_in_range() -> None:
    pixels_NCHW = random_pixels(16, 32, 32)
    loud = AugmentSettings(flips=False, rotated_share=0.0, gain=(0.5, 2.0), noise=20.0)
    moved_NCHW = augmented(pixels_NCHW.clone(), loud, torch.Generator().manual_seed(1))
    assert torch.allclose(moved_NCHW[:, 3:], pixels_NCHW[:, 3:], atol=1e-2)
    assert not torch.allclose(moved_NCHW[:, :3], pixels_NCHW[:, :3], atol=1)
    assert moved_NCHW.min() >= 0
    assert moved_NCHW[:, :3].max() <= 255


def test_one_seed_gives_one_augmentation() -> None:
    pixels_NCHW = random_pixels(8, 32, 32)
    first, second, other = (
        augmented(pixels_NCHW, SETTINGS["light"], torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
