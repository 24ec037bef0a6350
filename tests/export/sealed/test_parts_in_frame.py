from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from spacecompile.box_rule import BoxRule
from spacecompile.contract import ModelSpec
from spacecompile.export.sealed.box_of_maxima import logit
from spacecompile.export.sealed.parts_in_frame import PartsInFrame
from spacecompile.train.box.profile import box_from_profile, profile_of


def parts_of(logits: Tensor, **fields: Any) -> tuple[NDArray[np.uint8], list[float], list[float], float]:
    spec = ModelSpec(**({"input_size_px": (64, 64), "frame_size_px": (64, 64)} | fields))
    parts_HW, box_xyxy, parts_px, logit_max = PartsInFrame(spec)(logits)
    assert parts_HW.dtype == torch.uint8
    assert box_xyxy.dtype == torch.float32
    return parts_HW.numpy(), box_xyxy.tolist(), parts_px.tolist(), logit_max.item()


def plain(logits: Tensor, spec: ModelSpec) -> tuple[NDArray[np.uint8], list[float]]:
    """What a user writes: torch's resize, then NumPy."""
    resize = torch.nn.functional.interpolate
    if spec.mask_upsampling == "align_corners":
        logits = resize(logits, spec.input_size_px, mode="bilinear", align_corners=True)
    probs_KHW = torch.sigmoid(resize(logits, spec.frame_size_px, mode="bilinear"))[0].numpy()
    masks_KHW = probs_KHW > np.array(spec.part_thresholds, np.float32)[:, None, None]
    return masks_KHW[0] + 2 * masks_KHW[1], plain_box(probs_KHW.max(0), spec)


def plain_box(probs_HW: NDArray[np.float32], spec: ModelSpec) -> list[float]:
    rule, (height, width) = spec.box, spec.frame_size_px
    above_HW = probs_HW > rule.threshold
    columns, rows = (np.flatnonzero(above_HW.sum(axis) >= rule.support_px) for axis in (0, 1))
    if not (columns.size and rows.size):
        return [0.0] * 4
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    if rule.softness:
        (left, right), (top, bottom) = (soft_ends(probs_HW.max(axis), rule) for axis in (0, 1))
    growth = np.array(rule.margins_px) + np.array(rule.margin_shares) * ([right - left, bottom - top] * 2)
    box = np.array([left, top, right, bottom]) + growth * [-1, -1, 1, 1]
    return np.clip(box, 0, [width, height, width, height]).tolist()


def soft_ends(probs: NDArray[np.float32], rule: BoxRule) -> tuple[float, float]:
    """The sums of products as the literature writes them, one after the other, in float64."""
    probs = np.clip(probs.astype(np.float64), 1e-12, 1 - 1e-12)
    counts = 1 / (1 + np.exp(-(np.log(probs / (1 - probs)) - logit(rule.threshold)) / rule.softness))
    ends = []
    for along in (counts, counts[::-1]):
        total, product = 0.0, 1.0
        for count in along:
            product *= 1 - count
            total += product
        ends.append(total)
    return ends[0], len(counts) - ends[1]


@pytest.mark.parametrize(
    ("grid_px", "fields"),
    [
        pytest.param((16, 16), {"frame_size_px": (128, 128)}, id="8 phases"),
        pytest.param((16, 16), {"frame_size_px": (48, 48)}, id="3 phases"),
        pytest.param((16, 24), {"frame_size_px": (64, 96)}, id="not square, 4 phases"),
        pytest.param((16, 16), {"frame_size_px": (128, 64)}, id="another ratio per axis"),
        pytest.param((16, 16), {"frame_size_px": (200, 168)}, id="ratio that is not whole"),
        pytest.param((64, 64), {"frame_size_px": (64, 64)}, id="no upsampling"),
        pytest.param((64, 64), {"frame_size_px": (48, 40)}, id="frame smaller than the grid"),
        pytest.param((16, 16), {"frame_size_px": (128, 128), "mask_upsampling": "align_corners"}, id="aligned corners"),
        pytest.param(
            (16, 16), {"frame_size_px": (100, 90), "mask_upsampling": "align_corners"}, id="aligned, not whole"
        ),
        pytest.param((16, 16), {"part_thresholds": (0.2, 0.7)}, id="a threshold per part"),
        pytest.param((16, 16), {"box": BoxRule(threshold=0.9, margins_px=(1, 2.5, 3, 4))}, id="box rule of its own"),
        pytest.param(
            (16, 16),
            {
                "frame_size_px": (128, 128),
                "box": BoxRule(margin_shares=(0.1, -0.05, 0.2, 0.02), margins_px=(1, 0, 0, 2)),
            },
            id="shares",
        ),
        pytest.param((16, 16), {"frame_size_px": (128, 128), "box": BoxRule(support_px=12)}, id="support"),
        pytest.param((16, 16), {"frame_size_px": (100, 90), "box": BoxRule(support_px=9)}, id="support, not whole"),
        pytest.param(
            (16, 16), {"frame_size_px": (128, 128), "box": BoxRule(threshold=0.3, softness=0.5)}, id="soft edges"
        ),
        pytest.param(
            (16, 16),
            {"frame_size_px": (100, 90), "box": BoxRule(softness=0.02, margins_px=(1, 2, 3, 4))},
            id="edges nearly hard",
        ),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_parts_and_box_equal_a_plain_resize_and_numpy(
    grid_px: tuple[int, int], fields: dict[str, Any], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.full((1, 2, *grid_px), -4.0)
    logits[..., 3:-5, 4:-3] = 5 * torch.randn(1, 2, grid_px[0] - 8, grid_px[1] - 7, generator=generator)
    spec = ModelSpec(**({"input_size_px": (64, 64), "frame_size_px": (64, 64)} | fields))
    expected_HW, expected_box = plain(logits, spec)
    parts_HW, box_xyxy, parts_px, _ = parts_of(logits, **fields)
    # Where torch adds four products in another order, a pixel on the threshold may fall to the other side.
    assert np.count_nonzero(parts_HW != expected_HW) <= 1
    assert box_xyxy == pytest.approx(expected_box, abs=1e-2 if spec.box.softness else 1e-4)
    assert parts_px == [np.count_nonzero(parts_HW & 1), np.count_nonzero(parts_HW & 2)]
    assert 0 < parts_px[0] < parts_HW.size


@pytest.mark.parametrize(
    ("body", "panel", "box"),
    [
        pytest.param((5, 9, 20, 30), None, [9, 5, 30, 20], id="body only"),
        pytest.param(None, (0, 0, 1, 1), [0, 0, 1, 1], id="one corner pixel"),
        pytest.param((63, 63, 64, 64), None, [63, 63, 64, 64], id="the other corner"),
        pytest.param((10, 10, 12, 12), (40, 30, 50, 60), [10, 10, 60, 50], id="both parts apart"),
        pytest.param((0, 0, 64, 64), (0, 0, 64, 64), [0, 0, 64, 64], id="everything"),
        pytest.param(None, None, [0, 0, 0, 0], id="nothing"),
    ],
)
def test_the_box_is_half_open_around_every_part_pixel(
    body: tuple[int, ...] | None, panel: tuple[int, ...] | None, box: list[int]
) -> None:
    logits = torch.full((1, 2, 64, 64), -3.0)
    for part, area in enumerate((body, panel)):
        if area is not None:
            top, left, bottom, right = area
            logits[0, part, top:bottom, left:right] = 3.0
    parts_HW, box_xyxy, _, logit_max = parts_of(logits)
    assert box_xyxy == box
    assert int((parts_HW & 1).sum()) == (0 if body is None else (body[2] - body[0]) * (body[3] - body[1]))
    assert logit_max == (3.0 if body or panel else -3.0)


@pytest.mark.parametrize(
    ("margins_px", "box"),
    [
        pytest.param((1, 2, 3, 4), [19, 8, 43, 34], id="grown"),
        pytest.param((100, 100, 100, 100), [0, 0, 64, 64], id="clipped to the frame"),
        pytest.param((-2, -3, -4, -5), [22, 13, 36, 25], id="shrunk"),
        pytest.param((-30, -15, -30, -15), [50, 25, 50, 25], id="shrunk to nothing, never inside out"),
    ],
)
def test_margins_grow_each_side_on_its_own(margins_px: tuple[float, ...], box: list[float]) -> None:
    logits = torch.full((1, 2, 64, 64), -3.0)
    logits[0, 0, 10:30, 20:40] = 3.0
    assert parts_of(logits, box=BoxRule(margins_px=margins_px))[1] == box  # type: ignore[arg-type]


def test_without_a_pixel_margins_make_no_box() -> None:
    logits = torch.full((1, 2, 64, 64), -3.0)
    assert parts_of(logits, box=BoxRule(margins_px=(5, 5, 5, 5)))[1] == [0, 0, 0, 0]


def test_a_pixel_on_the_threshold_is_not_set() -> None:
    logits = torch.full((1, 2, 64, 64), np.float32(logit(0.3)).item())
    assert not parts_of(logits, part_thresholds=(0.3, 0.3))[0].any()


@given(
    rows=st.lists(st.integers(0, 15), min_size=1, max_size=4),
    columns=st.lists(st.integers(0, 15), min_size=1, max_size=4),
)
@settings(max_examples=30, deadline=None)
def test_the_box_always_holds_exactly_the_set_pixels(rows: list[int], columns: list[int]) -> None:
    logits = torch.full((1, 2, 16, 16), -2.0)
    for row, column in zip(rows, columns, strict=False):
        logits[0, row % 2, row, column] = 7.0
    parts_HW, box_xyxy, _, _ = parts_of(logits, frame_size_px=(128, 128))
    set_rows, set_columns = np.nonzero(parts_HW)
    assert box_xyxy == [set_columns.min(), set_rows.min(), set_columns.max() + 1, set_rows.max() + 1]


def test_stray_pixels_below_the_support_make_no_box_and_move_none() -> None:
    logits = torch.full((1, 2, 64, 64), -3.0)
    logits[0, 0, 2, 60] = logits[0, 1, 61, 5] = 3.0
    for support_px, box in ((1, [5, 2, 61, 62]), (2, [0, 0, 0, 0])):
        assert parts_of(logits, box=BoxRule(support_px=support_px))[1] == box
    logits[0, 0, 10:30, 20:40] = 3.0
    assert parts_of(logits, box=BoxRule(support_px=2))[1] == [20, 10, 40, 30]


def test_a_row_of_enough_pixels_without_such_a_column_is_no_box() -> None:
    logits = torch.full((1, 2, 64, 64), -3.0)
    logits[0, 0, 10, 20:30] = 3.0
    assert parts_of(logits, box=BoxRule(support_px=5, margins_px=(4, 4, 4, 4)))[1] == [0, 0, 0, 0]


def test_support_of_one_pixel_costs_no_pass_over_the_frame() -> None:
    """As many operations at frame size as without a box rule of its own; more support takes more."""

    def frame_sized(rule: BoxRule) -> int:
        parts = PartsInFrame(ModelSpec(input_size_px=(64, 64), frame_size_px=(128, 128), box=rule))
        graph = torch.export.export(parts, (torch.randn(1, 2, 16, 16),)).graph
        return sum(getattr(node.meta.get("val"), "numel", int)() == 128 * 128 for node in graph.nodes)

    plain_rule = frame_sized(BoxRule())
    assert frame_sized(BoxRule(threshold=0.3, margin_shares=(0.1,) * 4, softness=0.5)) == plain_rule
    assert frame_sized(BoxRule(support_px=2)) > plain_rule


@pytest.mark.parametrize("grid_px", [(16, 16), (20, 20)], ids=["whole ratio", "resized"])
@pytest.mark.parametrize(
    "rule", [BoxRule(), BoxRule(support_px=3), BoxRule(softness=0.3)], ids=["hard", "support", "soft"]
)
def test_the_median_box_is_that_of_the_views_own_boxes(grid_px: tuple[int, int], rule: BoxRule) -> None:
    spec = ModelSpec(input_size_px=(64, 64), frame_size_px=(128, 128), box=rule)
    views_VKhw = 3 * torch.randn(8, 2, *grid_px, generator=torch.Generator().manual_seed(3)) - 5
    views_VKhw[:, :, 5:9, 4:11] += torch.linspace(2, 9, 8)[:, None, None, None]
    to_parts = PartsInFrame(spec)
    boxes_V4 = np.stack([to_parts(view_1Khw).box_xyxy.numpy() for view_1Khw in views_VKhw.chunk(8)])
    assert len({tuple(box) for box in boxes_V4.tolist()}) > 3
    given = to_parts(views_VKhw.mean(0, keepdim=True), None, views_VKhw).box_xyxy
    np.testing.assert_allclose(given, np.median(boxes_V4, axis=0), atol=1e-3)


@pytest.mark.parametrize("rule", [BoxRule(views="median"), BoxRule(views="median", softness=0.1)], ids=["hard", "soft"])
@pytest.mark.parametrize(("num_found", "has_box"), [(8, True), (5, True), (4, False), (3, False), (0, False)])
def test_more_than_half_of_the_views_have_to_see_a_box(rule: BoxRule, num_found: int, has_box: bool) -> None:
    """As many with as without would give half of every coordinate."""
    spec = ModelSpec(input_size_px=(64, 64), frame_size_px=(64, 64), box=rule)
    views_VKhw = torch.full((8, 2, 64, 64), -20.0)
    views_VKhw[:num_found, 0, 40:50, 30:60] = 20.0
    box_xyxy = PartsInFrame(spec)(views_VKhw.mean(0, keepdim=True), None, views_VKhw).box_xyxy
    assert box_xyxy.tolist() == pytest.approx([30, 40, 60, 50] if has_box else [0] * 4, abs=1e-3)
    views = tuple(profile_of(view_KHW) for view_KHW in views_VKhw)
    profile = replace(views[0], views=views)
    np.testing.assert_allclose(box_from_profile(profile, rule, (64, 64)), box_xyxy, atol=1e-3)


def test_residuals_grow_each_side_by_their_share_of_the_box() -> None:
    logits = torch.full((1, 2, 64, 64), -3.0)
    logits[0, 0, 10:30, 20:30] = 3.0
    spec = ModelSpec(input_size_px=(64, 64), frame_size_px=(64, 64), box=BoxRule(margins_px=(1, 0, 0, 0)))
    residuals_14 = torch.tensor([[0.1, 0.2, -0.3, 0.25]])
    assert PartsInFrame(spec)(logits, residuals_14).box_xyxy.tolist() == pytest.approx([18, 6, 27, 35])
