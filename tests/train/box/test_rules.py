"""Box calibration finds a bias that is put in, and changes nothing where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from spacecompile.box_rule import BoxRule
from spacecompile.metrics import box_iou
from spacecompile.train.box.profile import BoxProfile, box_from_profile, profile_of
from spacecompile.train.box.rules import (
    BoxCase,
    box_ious,
    calibrated,
    calibrated_box_rule,
    detection_score_of,
    folds_of,
    hard_rules,
    refitted,
    simplest_of_equals,
    soft_rules,
    supported_rules,
    trajectory_folds,
)

FRAME_SIZE_PX = (200, 300)


def case(
    true_box: tuple[int, int, int, int],
    *,
    lacks: tuple[int, int, int, int] = (0, 0, 0, 0),
    size_px: tuple[int, int] = FRAME_SIZE_PX,
    edge_logit: float = -9.0,
    class_index: int = 0,
) -> BoxCase:
    """A frame whose answer falls short of the truth by `lacks` pixels per side, where its logit is `edge_logit`."""
    left, top, right, bottom = true_box
    rows_H, columns_W = np.full(size_px[0], -9.0, np.float32), np.full(size_px[1], -9.0, np.float32)
    rows_H[top:bottom], columns_W[left:right] = edge_logit, edge_logit
    rows_H[top + lacks[1] : bottom - lacks[3]] = 9.0
    columns_W[left + lacks[0] : right - lacks[2]] = 9.0
    profile = BoxProfile(rows_H=rows_H, columns_W=columns_W)
    return BoxCase(profile=profile, true_box_xyxy=true_box, class_index=class_index)


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


def test_margins_grow_with_the_box_where_the_bias_does() -> None:
    cases = [
        case((x, y, right, bottom), lacks=(round(0.1 * (right - x)), 2, 0, round(0.2 * (bottom - y)) + 1))
        for x, y, right, bottom in boxes(60)
    ]
    rule = calibrated_box_rule(cases, frame_size_px=FRAME_SIZE_PX, start=BoxRule())
    # Shares of the box that is seen, which is the true one less what it lacks.
    assert rule.margin_shares == pytest.approx((0.1 / 0.9, 0, 0, 0.2 / 0.8), abs=0.03)
    assert detection_score_of(rule, cases, FRAME_SIZE_PX) > 0.99
    constant = refitted(BoxRule(margins_px=(1.0,) * 4), cases, FRAME_SIZE_PX, np.ones(60, bool))
    assert detection_score_of(constant, cases, FRAME_SIZE_PX) < 0.99


def picture(box: tuple[int, int, int, int], *, stray: tuple[int, int] | None = None) -> BoxCase:
    """A craft's logits, and perhaps one bright pixel far from it."""
    x, y, right, bottom = box
    logits = torch.full((2, *FRAME_SIZE_PX), -9.0)
    logits[0, y:bottom, x:right] = 9.0
    if stray is not None:
        logits[1, stray[1], stray[0]] = 9.0
    return BoxCase(profile=profile_of(logits, supports_px=(2, 3, 4, 6, 8)), true_box_xyxy=box)


def test_support_keeps_stray_pixels_out() -> None:
    cases = [picture(box, stray=(5, 5) if index % 2 else None) for index, box in enumerate(boxes(16))]
    found = {
        name: calibrated(cases, frame_size_px=FRAME_SIZE_PX, start=BoxRule(), rules=rules)
        for name, rules in (("hard", hard_rules()), ("supported", supported_rules()))
    }
    assert found["hard"].s_det_folds < 0.8
    assert found["supported"].s_det_folds == 1.0
    assert found["supported"].rule == BoxRule(support_px=2)


def test_support_follows_the_size_of_the_frame() -> None:
    """Twice as many pixels in the spec's frame are as many in a file of half its size."""
    seen = picture((50, 60, 90, 100), stray=(5, 5))
    twice_px = (2 * FRAME_SIZE_PX[0], 2 * FRAME_SIZE_PX[1])
    for support_px, left in ((2, 5), (4, 50)):
        assert box_from_profile(seen.profile, BoxRule(support_px=support_px), twice_px)[0] == left


def test_soft_edges_find_sides_between_pixels() -> None:
    """The logit falls by one per pixel across each side, which lies a quarter of a pixel behind the last centre."""
    rows_H, columns_W = np.arange(200) + 0.5, np.arange(300) + 0.5
    cases = []
    for x, y, right, bottom in boxes(24):
        sides = (x + 0.25, y + 0.25, right + 0.25, bottom + 0.25)
        profile = BoxProfile(
            rows_H=np.minimum(rows_H - sides[1], sides[3] - rows_H).clip(-9, 9).astype(np.float32),
            columns_W=np.minimum(columns_W - sides[0], sides[2] - columns_W).clip(-9, 9).astype(np.float32),
        )
        cases.append(BoxCase(profile=profile, true_box_xyxy=sides))
    hard, soft = (
        np.array([box_from_profile(case.profile, rule, FRAME_SIZE_PX) - case.true_box_xyxy for case in cases])
        for rule in (BoxRule(), BoxRule(softness=0.1))
    )
    assert np.abs(soft).max() < np.abs(hard).max()
    assert calibrated(cases, frame_size_px=FRAME_SIZE_PX, start=BoxRule(), rules=soft_rules()).s_det_folds == 1.0


def test_a_rule_is_judged_by_frames_that_its_margins_were_not_fitted_on() -> None:
    """Each run of neighbours has a bias of its own: margins of the others can't undo it."""
    cases = [case(box, lacks=(3 * (index // 10),) * 4) for index, box in enumerate(boxes(40))]
    found = calibrated(cases, frame_size_px=FRAME_SIZE_PX, start=BoxRule(), rules=hard_rules())
    assert found.s_det_folds < detection_score_of(found.rule, cases, FRAME_SIZE_PX)
    mixed_N = np.arange(40) % 4
    assert (
        calibrated(cases, frame_size_px=FRAME_SIZE_PX, start=BoxRule(), rules=hard_rules(), fold_N=mixed_N).s_det_folds
        > found.s_det_folds
    )


def test_folds_keep_neighbours_of_a_class_together() -> None:
    folds = trajectory_folds(["a", "b"] * 8, folds=4)
    assert folds.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert trajectory_folds(["a", "b", "c"], folds=4).tolist() == [0, 0, 0]


def test_the_median_of_boxes_ignores_three_views_that_are_far_off() -> None:
    bad = picture((5, 5, 299, 199)).profile
    cases = []
    for box in boxes(12):
        views = (picture(box).profile,) * 5 + (bad,) * 3
        merged = BoxProfile(rows_H=bad.rows_H, columns_W=bad.columns_W, views=views)
        cases.append(BoxCase(profile=merged, true_box_xyxy=box))
    found = calibrated(cases, frame_size_px=FRAME_SIZE_PX, start=BoxRule(), rules=(BoxRule(), BoxRule(views="median")))
    assert found.rule == BoxRule(views="median")
    assert found.s_det_folds == 1.0
    grown = BoxRule(views="median", margins_px=(1, 2, 3, 4))
    expected = np.array(cases[0].true_box_xyxy) + np.array([-1, -2, 3, 4])
    assert box_from_profile(cases[0].profile, grown, FRAME_SIZE_PX).tolist() == expected.tolist()


def test_a_frame_that_half_of_the_views_see_has_no_box_and_teaches_no_margin() -> None:
    cases = []
    for index, box in enumerate(boxes(16)):
        num_found = 4 if index % 2 else 8
        views = (case(box, lacks=(2, 2, 2, 2)).profile,) * num_found + (case((5, 5, 5, 5)).profile,) * (8 - num_found)
        cases.append(BoxCase(profile=replace(views[0], views=views), true_box_xyxy=box))
    assert not box_from_profile(cases[1].profile, BoxRule(views="median"), FRAME_SIZE_PX).any()
    margins = refitted(BoxRule(views="median", margins_px=(1.0,) * 4), cases, FRAME_SIZE_PX, np.ones(16, bool))
    assert margins.margins_px == (2.0,) * 4
    assert detection_score_of(margins, cases, FRAME_SIZE_PX) == 0.5


def test_many_ious_are_those_of_the_score() -> None:
    given, truths = np.array(boxes(30), float), np.array(boxes(31)[1:], float)
    given[3] = 0
    expected = [box_iou(*pair) for pair in zip(given, truths, strict=True)]
    assert box_ious(given, truths) == pytest.approx(expected)
    assert min(expected) == 0 < max(expected)


def test_an_estimator_that_wins_by_luck_gives_way_to_a_simpler_one() -> None:
    rng = np.random.default_rng(3)
    simple = rng.uniform(0.5, 0.95, 40)
    lucky = simple + rng.normal(0, 0.05, 40)
    lucky += 0.002 + (simple - lucky).mean()
    better = simple + 0.05
    assert lucky.mean() > simple.mean()
    assert simplest_of_equals([simple, lucky]) == 0
    assert simplest_of_equals([simple, lucky, better]) == 2
    assert simplest_of_equals([simple, simple]) == 0
    assert simplest_of_equals([better, simple]) == 0


def test_folds_follow_the_classes_of_the_cases() -> None:
    cases = [case(box, class_index=index // 4) for index, box in enumerate(boxes(8))]
    assert folds_of(cases).tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_training_run_keeps_its_rule_where_another_wins_by_chance_only() -> None:
    """A lower threshold helps one frame of 40 more than it harms another: luck, by the one-standard-error rule."""
    faint = {"lacks": (10, 10, 10, 10), "edge_logit": float(np.log(0.42 / 0.58))}
    helped = case((40, 40, 140, 140), **faint)
    harmed = replace(case((40, 40, 160, 160), **faint), true_box_xyxy=(50, 50, 150, 150))
    cases, start = [*(case(box) for box in boxes(38)), helped, harmed], BoxRule(threshold=0.45)
    best = calibrated(cases, frame_size_px=FRAME_SIZE_PX, start=start, rules=hard_rules())
    assert best.rule.threshold < 0.42
    assert calibrated_box_rule(cases, frame_size_px=FRAME_SIZE_PX, start=start) == start


def test_a_training_run_takes_soft_edges_where_faint_pixels_tell_how_far_a_craft_reaches() -> None:
    """Small crafts whose outermost rows and columns are as probable as they are covered."""
    rng = np.random.default_rng(0)
    cases, softness = [], 0.25
    for x, y in rng.integers(20, 90, (60, 2)):
        covered_4 = rng.uniform(0.05, 0.95, 4)
        edges_4 = softness * np.log(covered_4 / (1 - covered_4))
        rows_H, columns_W = (np.full(side_px, -9.0, np.float32) for side_px in FRAME_SIZE_PX)
        for line, start, ends in ((columns_W, x, edges_4[[0, 2]]), (rows_H, y, edges_4[[1, 3]])):
            line[start : start + 8], line[[start, start + 7]] = 9.0, ends
        left, top, right, bottom = covered_4
        truth = (x + 1 - left, y + 1 - top, x + 7 + right, y + 7 + bottom)
        cases.append(BoxCase(profile=BoxProfile(rows_H=rows_H, columns_W=columns_W), true_box_xyxy=truth))
    rule = calibrated_box_rule(cases, frame_size_px=FRAME_SIZE_PX, start=BoxRule())
    assert rule.softness == softness
    assert detection_score_of(rule, cases, FRAME_SIZE_PX) > 0.95
    hard = calibrated(cases, frame_size_px=FRAME_SIZE_PX, start=BoxRule(), rules=hard_rules())
    assert hard.s_det_folds < 0.9


def test_without_a_case_the_rule_stays() -> None:
    assert calibrated_box_rule([], frame_size_px=FRAME_SIZE_PX, start=BoxRule(threshold=0.3)) == BoxRule(threshold=0.3)
