"""Scores while training are those of the sealed graph: same masks, same boxes, same classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from spacecompile.box_rule import BoxRule
from spacecompile.contract import SPARK_CLASSES, Cost, ModelSpec
from spacecompile.data.labels import read_split
from spacecompile.data.spark import read_frame_HWC
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.metrics import ScoreMeter, parts_iou
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train.box.profile import box_from_profile
from spacecompile.train.device import plan_device
from spacecompile.train.evaluate import answers, score_rules
from spacecompile.train.frames.dataset import ValidationFrames

COST = Cost(params=3_454_060, macs_fvcore=4_482_700_000, macs_torch=4_411_600_000)
RULE = BoxRule(threshold=0.35, margins_px=(1.5, 0.0, 2.25, 3.0))
RULES = (
    RULE,
    BoxRule(margin_shares=(0.05, 0.1, -0.02, 0.0), margins_px=(0.0, 1.0, 0.0, 0.0)),
    BoxRule(threshold=0.4, support_px=6),
    BoxRule(threshold=0.45, softness=0.3),
)


def lively_network(spec: ModelSpec) -> MultiTaskNetwork:
    """An untrained network whose masks are neither empty nor full."""
    torch.manual_seed(5)
    network = MultiTaskNetwork(spec)
    with torch.no_grad():
        network.segmentation_head[0].weight.mul_(30)  # type: ignore[index, union-attr, operator]
    return network.train()


@pytest.mark.parametrize(
    "input_size_px",
    [pytest.param((96, 96), id="input of the frame's size"), pytest.param((64, 64), id="ratio that is not whole")],
)
def test_answers_equal_those_of_the_sealed_graph(tiny_data: Path, input_size_px: tuple[int, int]) -> None:
    spec = ModelSpec(input_size_px=input_size_px, frame_size_px=(96, 96), part_thresholds=(0.5, 0.6), box=RULE)
    network = lively_network(spec)
    frames = read_split(tiny_data, "val")[:5]
    store = ValidationFrames(frames, classes=spec.classes, input_size_px=input_size_px, frame_size_px=(96, 96))
    plan = plan_device("cpu", amp=False)
    found = list(answers(network, store, plan=plan, batch_size=2, supports_px=(6,)))
    assert network.training  # as it was before
    network.eval()
    graphs = {rule: SealedGraph(network, replace(spec, box=rule)) for rule in RULES}
    sealed = graphs[RULE]
    assert len(found) == len(frames)
    set_pixels = 0
    for frame, answer in zip(frames, found, strict=True):
        with torch.no_grad():
            probs_L, parts_HW, box_xyxy, _ = sealed(torch.tensor(read_frame_HWC(frame.image_path)))
        assert answer.class_index == int(probs_L.argmax())
        assert min(parts_iou(answer.parts_HW, parts_HW.numpy())) > 0.999
        assert np.allclose(box_from_profile(answer.profile, RULE, (96, 96)), box_xyxy.numpy(), atol=1e-3)
        for rule, graph in graphs.items():
            with torch.no_grad():
                box_xyxy = graph(torch.tensor(read_frame_HWC(frame.image_path)))[2]
            assert np.allclose(box_from_profile(answer.profile, rule, (96, 96)), box_xyxy.numpy(), atol=2e-2)
        set_pixels += np.count_nonzero(answer.parts_HW)
    assert 0 < set_pixels < 5 * 96 * 96


def test_frames_of_another_size_than_the_specs_are_judged_at_their_own_size(tiny_data: Path) -> None:
    spec = ModelSpec(input_size_px=(64, 64), frame_size_px=(192, 192), box=BoxRule(margins_px=(4.0, 4.0, 4.0, 4.0)))
    network = lively_network(spec)
    store = ValidationFrames(
        read_split(tiny_data, "val")[:2], classes=spec.classes, input_size_px=(64, 64), frame_size_px=(192, 192)
    )
    for answer in answers(network, store, plan=plan_device("cpu", amp=False), batch_size=2):
        assert answer.parts_HW.shape == (96, 96)
        bare = box_from_profile(answer.profile, BoxRule(), spec.frame_size_px)
        grown = box_from_profile(answer.profile, spec.box, spec.frame_size_px)
        assert np.allclose(grown, np.clip(bare + np.array([-2, -2, 2, 2]), 0, 96))


def test_several_rules_are_scored_in_one_pass_and_differ_only_in_boxes(tiny_data: Path) -> None:
    spec = ModelSpec(input_size_px=(64, 64), frame_size_px=(96, 96))
    network = lively_network(spec)
    store = ValidationFrames(
        read_split(tiny_data, "val"), classes=spec.classes, input_size_px=(64, 64), frame_size_px=(96, 96)
    )
    plan = plan_device("cpu", amp=False)
    seen: list[tuple[str, int, int]] = []
    huge = BoxRule(margins_px=(96.0,) * 4)
    plain_scores, huge_scores = score_rules(
        network,
        store,
        (BoxRule(), huge),
        cost=COST,
        plan=plan,
        batch_size=4,
        progress=lambda step, done, total: seen.append((step, done, total)),
    )
    assert seen == [("validate", 4, 10), ("validate", 8, 10), ("validate", 10, 10)]
    meter = ScoreMeter(classes=SPARK_CLASSES)
    for answer in answers(network, store, plan=plan, batch_size=4):
        truth = answer.truth
        meter.add(
            answer.class_index,
            truth.class_index,
            answer.parts_HW,
            truth.parts_HW,
            (0, 0, 96, 96) if answer.parts_HW.any() else (0, 0, 0, 0),
            truth.box_xyxy,
        )
    assert huge_scores == meter.scores(COST)
    assert (plain_scores.s_seg, plain_scores.s_cls) == (huge_scores.s_seg, huge_scores.s_cls)
