"""Augmentation moves frame and coverage together and loses nothing that it need not lose."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spacecompile.train.augment import SETTINGS, AugmentSettings, augmented, augmented_with_boxes

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


@pytest.mark.parametrize("level", ["light", "medium", "heavy"])
def test_coverage_moves_with_the_frame(level: str) -> None:
    pixels_NCHW = torch.zeros(32, 5, 48, 48)
    pixels_NCHW[:, :, 10:30, 15:40] = 255
    quiet = replace(SETTINGS[level], gain=(1.0, 1.0), tint=(1.0, 1.0), noise=0.0, blurred_share=0.0)
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


def block_with_box(frames: int, size_px: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """An ellipse off the centre, whose box every rotation knows exactly, and that box."""
    rows_H1, columns_1W = torch.arange(size_px[0])[:, None] + 0.5, torch.arange(size_px[1])[None] + 0.5
    ellipse_HW = ((rows_H1 - 40) / 8) ** 2 + ((columns_1W - 60) / 20) ** 2 < 1
    pixels_NCHW = (ellipse_HW.float() * 255).expand(frames, 5, -1, -1)
    return pixels_NCHW, torch.tensor([[40.0, 32.0, 80.0, 48.0]]).expand(frames, -1)


@pytest.mark.parametrize("size_px", [(96, 96), (96, 128)], ids=["square", "wide"])
@pytest.mark.parametrize("level", ["light", "medium", "heavy"])
def test_boxes_stay_around_what_they_were_around(level: str, size_px: tuple[int, int]) -> None:
    pixels_NCHW, boxes_N4 = block_with_box(40, size_px)
    quiet = replace(SETTINGS[level], gain=(1.0, 1.0), tint=(1.0, 1.0), noise=0.0, blurred_share=0.0)
    moved_NCHW, moved_N4 = augmented_with_boxes(pixels_NCHW, boxes_N4, quiet, torch.Generator().manual_seed(2))
    assert len(moved_N4.unique(dim=0)) > 10
    for pixels_CHW, box_xyxy in zip(moved_NCHW, moved_N4.tolist(), strict=True):
        covered_HW = pixels_CHW[3] > 127
        rows, columns = covered_HW.any(1).nonzero().flatten(), covered_HW.any(0).nonzero().flatten()
        tight = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        assert box_xyxy == pytest.approx(tight, abs=1.6)


def test_a_box_survives_flips_and_quarter_turns_exactly_and_an_empty_one_stays_empty() -> None:
    pixels_NCHW, boxes_N4 = block_with_box(32, (96, 96))
    boxes_N4 = torch.cat([boxes_N4, torch.zeros(1, 4)])
    pixels_NCHW = torch.cat([pixels_NCHW, pixels_NCHW[:1]])
    _, moved_N4 = augmented_with_boxes(pixels_NCHW, boxes_N4, FLIPS_ONLY, torch.Generator().manual_seed(0))
    sides = {tuple(round(side, 3) for side in (x1 - x0, y1 - y0)) for x0, y0, x1, y1 in moved_N4[:-1].tolist()}
    assert sides == {(40.0, 16.0), (16.0, 40.0)}
    assert torch.allclose(moved_N4, moved_N4.round(), atol=1e-3)
    assert moved_N4[-1].tolist() == [0, 0, 0, 0]


def test_a_craft_that_leaves_the_frame_has_an_empty_box_there() -> None:
    pixels_NCHW, boxes_N4 = torch.zeros(64, 5, 64, 64), torch.tensor([[0.0, 0.0, 4.0, 4.0]]).expand(64, -1)
    far = AugmentSettings(flips=False, rotated_share=1.0, rotation_deg=0.0, shift=0.4)
    _, moved_N4 = augmented_with_boxes(pixels_NCHW, boxes_N4, far, torch.Generator().manual_seed(0))
    sides_N2 = moved_N4[:, 2:] - moved_N4[:, :2]
    assert (sides_N2 >= 0).all()
    assert (sides_N2 == 0).any(1).any()
    assert (sides_N2 == 4).all(1).any()


def test_heavy_tints_and_blurs_frames_only() -> None:
    pixels_NCHW, _ = block_with_box(24, (96, 96))
    still = replace(SETTINGS["heavy"], flips=False, rotated_share=0.0, noise=0.0, gain=(1.0, 1.0))
    moved_NCHW = augmented(pixels_NCHW.clone(), still, torch.Generator().manual_seed(1))
    assert torch.allclose(moved_NCHW[:, 3:], pixels_NCHW[:, 3:], atol=1e-2)
    inside_NC = moved_NCHW[:, :3, 40, 60]
    assert (inside_NC.amax(1) - inside_NC.amin(1)).max() > 20
    is_soft_N = ((moved_NCHW[:, 0] > 1) & (moved_NCHW[:, 0] < 150)).flatten(1).any(1)
    assert 0 < is_soft_N.sum() < 24
