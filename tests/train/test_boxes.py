"""Box calibration finds a bias that is put in, and changes nothing where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from spacecompile.contract import BoxRule
from spacecompile.train.box_profile import BoxProfile, box_from_profile
from spacecompile.train.boxes import BoxCase, calibrated_box_rule, detection_score_of

FRAME_SIZE_PX = (200, 300)


def case(
    true_box: tuple[int, int, int, int],
    *,
    lacks: tuple[int, int, int, int] = (0, 0, 0, 0),
    size_px: tuple[int, int] = FRAME_SIZE_PX,
    edge_logit: float = -9.0,
) -> BoxCase:
    """A frame whose answer falls short of the truth by `lacks` pixels per side, where its logit is `edge_logit`."""
    left, top, right, bottom = true_box
    rows_H, columns_W = np.full(size_px[0], -9.0, np.float32), np.full(size_px[1], -9.0, np.float32)
    rows_H[top:bottom], columns_W[left:right] = edge_logit, edge_logit
    rows_H[top + lacks[1] : bottom - lacks[3]] = 9.0
    columns_W[left + lacks[0] : right - lacks[2]] = 9.0
    return BoxCase(profile=BoxProfile(rows_H=rows_H, columns_W=columns_W), true_box_xyxy=true_box)


def boxes(count: int) -> list[tuple[int, int, int, int]]:
    rng = np.random.default_rng(0)
    corners = rng.integers(20, 90, (count, 2))
    sizes = rng.integers(30, 80, (count, 2))
    return [(int(x), int(y), int(x + w), int(y + h)) for (x, y), (w, h) in zip(corners, sizes, strict=True)]


def test_margins_undo_a_constant_bias_per_side() -> None:
    cases = [case(box, lacks=(1, 2, 3, 4)) for box in boxes(40)]
    rule = calibrated_box_rule(cases, frame_size_px=FRAME_SIZE_PX, start=BoxRule())
    assert rule.margins_px == (1.0, 2.0, 3.0, 4.0)
    assert detection_score_of(rule, cases, FRAME_SIZE_PX) == 1.0


def test_margins_are_in_pixels_of_the_specs_frame_whatever_the_files_size() -> None:
    cases = [case(box, lacks=(1, 2, 3, 4), size_px=(200, 300)) for box in boxes(40)]
    rule = calibrated_box_rule(cases, frame_size_px=(400, 900), start=BoxRule())
    assert rule.margins_px == (3.0, 4.0, 9.0, 8.0)
    assert detection_score_of(rule, cases, (400, 900)) == 1.0


def test_the_threshold_falls_when_faint_edges_belong_to_the_craft() -> None:
    faint = float(np.log(0.42 / 0.58))
    rng = np.random.default_rng(1)
    cases = [case(box, lacks=tuple(rng.integers(0, 12, 4)), edge_logit=faint) for box in boxes(40)]
    rule = calibrated_box_rule(cases, frame_size_px=FRAME_SIZE_PX, start=BoxRule())
    assert rule.threshold < 0.42
    assert detection_score_of(rule, cases, FRAME_SIZE_PX) == 1.0


def test_a_perfect_answer_keeps_the_rule_it_has() -> None:
    start = BoxRule(threshold=0.45)
    cases = [case(box) for box in boxes(10)]
    assert calibrated_box_rule(cases, frame_size_px=FRAME_SIZE_PX, start=start) == start


@pytest.mark.parametrize("cases", [[], [case((5, 5, 5, 5))]], ids=["no frame", "no answer"])
def test_nothing_to_learn_from_keeps_the_rule(cases: list[BoxCase]) -> None:
    assert calibrated_box_rule(cases, frame_size_px=FRAME_SIZE_PX, start=BoxRule()) == BoxRule()


def test_sides_on_the_frames_edge_do_not_count() -> None:
    """Craft cut off at the left would say that no growth is needed there."""
    inside = [case(box, lacks=(4, 4, 4, 4)) for box in boxes(10)]
    cut_off = [case((0, box[1], box[2], box[3]), lacks=(0, 4, 4, 4)) for box in boxes(30)]
    rule = calibrated_box_rule(inside + cut_off, frame_size_px=FRAME_SIZE_PX, start=BoxRule())
    assert rule.margins_px == (4.0, 4.0, 4.0, 4.0)


def test_margins_never_leave_the_frame() -> None:
    rule = BoxRule(margins_px=(50.0, 50.0, 500.0, 500.0))
    assert box_from_profile(case((10, 20, 30, 40)).profile, rule, FRAME_SIZE_PX).tolist() == [0, 0, 300, 200]


def test_no_pixel_above_the_threshold_is_an_empty_box() -> None:
    assert not box_from_profile(case((5, 5, 5, 5)).profile, BoxRule(margins_px=(9.0,) * 4), FRAME_SIZE_PX).any()
