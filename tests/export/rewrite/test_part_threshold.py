"""A part threshold in the head's bias, and the graph around it that knows."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from spacecompile.box_rule import BoxRule
from spacecompile.contract import Tta
from spacecompile.export.rewrite import rewrite_network
from spacecompile.export.rewrite.base import in_float64
from spacecompile.export.rewrite.part_threshold import FoldPartThreshold
from spacecompile.export.rewrite.proof import PassProofSettings, relative_errors
from spacecompile.export.sealed.box_of_maxima import logit
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.network.model import MultiTaskNetwork

CALIBRATED = {"part_thresholds": (0.35, 0.6), "box": BoxRule(threshold=0.6, margins_px=(1.0, 2.0, 3.0, 4.0))}


def test_the_body_begins_at_zero_and_the_spec_names_the_shift(make_network: Callable[..., MultiTaskNetwork]) -> None:
    source = make_network(**CALIBRATED)
    network, report = FoldPartThreshold().run(source)
    assert report.changed
    assert report.relative_error <= 1e-9
    assert report.after == report.before
    assert network.spec.part_thresholds[0] == 0.5
    assert network.spec.part_logit_offset == pytest.approx(logit(0.35))
    assert logit(network.spec.part_thresholds[1]) + network.spec.part_logit_offset == pytest.approx(logit(0.6))
    assert network.spec.box == source.spec.box
    assert not FoldPartThreshold().requires(in_float64(network))


def test_equal_thresholds_both_become_zero(make_network: Callable[..., MultiTaskNetwork]) -> None:
    network, _ = FoldPartThreshold().run(make_network(part_thresholds=(0.4, 0.4)))
    assert network.spec.part_thresholds == (0.5, 0.5)


def test_the_proof_sees_a_shift_that_the_spec_does_not_name(make_network: Callable[..., MultiTaskNetwork]) -> None:
    before = in_float64(make_network(**CALIBRATED))
    after = FoldPartThreshold().apply(copy.deepcopy(before))
    after.spec = before.spec
    errors = relative_errors(before, after, PassProofSettings())
    assert errors["class logits"] == 0.0
    assert errors["part logits"] > 1e-3


@torch.no_grad()
def _centre_part_logits(network: MultiTaskNetwork, tta: Tta, frame_HWC: torch.Tensor) -> None:
    """Shift the head so that about half of the frame belongs to each part."""
    merged: list[torch.Tensor] = []
    graph = SealedGraph(network, network.spec, tta)
    graph.to_parts.register_forward_pre_hook(lambda _, inputs: merged.append(inputs[0]))
    graph(frame_HWC)
    wanted_K = torch.tensor([logit(threshold) for threshold in network.spec.part_thresholds])
    network.segmentation_head[0].bias += wanted_K - merged[0][0].flatten(1).median(dim=1).values


@pytest.mark.parametrize("tta", ["none", "d4", "d4-median"])
def test_the_sealed_graph_gives_the_same_answer(make_network: Callable[..., MultiTaskNetwork], tta: Tta) -> None:
    source = make_network(frame_size_px=(128, 128), **CALIBRATED)
    frame_HWC = torch.randint(0, 256, (128, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    _centre_part_logits(source, tta, frame_HWC)
    network, _ = FoldPartThreshold().run(source.double())
    with torch.no_grad():
        expected, seen = (SealedGraph(net.float(), net.spec, tta)(frame_HWC) for net in (source, network))
    body_px, panel_px = float(expected[3][2]), float(expected[3][3])
    assert 100 < body_px < 128 * 128 - 100
    assert 100 < panel_px < 128 * 128 - 100
    assert expected[2].any()
    assert (seen[1] != expected[1]).sum() <= 2
    torch.testing.assert_close(seen[2], expected[2])
    torch.testing.assert_close(seen[3], expected[3], rtol=0, atol=2.0)  # a pixel or two may change sides
    torch.testing.assert_close(seen[3][4:], expected[3][4:], rtol=0, atol=1e-4)


def _with_activation(network: MultiTaskNetwork) -> None:
    network.segmentation_head = nn.Sequential(network.segmentation_head, nn.Sigmoid())


def _with_two(network: MultiTaskNetwork) -> None:
    network.segmentation_head = nn.Sequential(network.segmentation_head, nn.Conv2d(2, 2, 1).double())


@pytest.mark.parametrize("change", [_with_activation, _with_two])
def test_another_head_is_left_alone(
    make_network: Callable[..., MultiTaskNetwork], change: Callable[[MultiTaskNetwork], None]
) -> None:
    network = in_float64(make_network(**CALIBRATED))
    assert FoldPartThreshold().requires(network)
    change(network)
    assert not FoldPartThreshold().requires(network)


def test_a_threshold_of_one_half_needs_nothing(reference_network: MultiTaskNetwork) -> None:
    assert not FoldPartThreshold().requires(reference_network)


def test_both_conventions_hold_together_in_a_pyramid(make_network: Callable[..., MultiTaskNetwork]) -> None:
    source = make_network(
        architecture="FPN", encoder="resnet18", decoder_options={}, frame_size_px=(96, 96), **CALIBRATED
    )
    network, reports = rewrite_network(source)
    changed = {report.name for report in reports if report.changed}
    assert {"fold_part_threshold", "move_pointwise_first", "fold_input_scale"} <= changed
    assert max(relative_errors(in_float64(source), in_float64(network), PassProofSettings()).values()) <= 1e-5
