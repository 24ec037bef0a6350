"""The box head learns what features tell, stops in time, and its residuals mean what the sealed graph makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor

from spacecompile.box_rule import BoxHead, BoxRule
from spacecompile.data.labels import read_split
from spacecompile.data.spark import read_frame_HWC
from spacecompile.export.rewrite.pipeline import rewrite_network
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.network.model import BoxResidualHead, MultiTaskNetwork
from spacecompile.train.box.head import (
    HeadSamples,
    HeadSettings,
    corrected_boxes,
    corrected_ious,
    head_samples,
    shifted,
    trained_head,
)
from spacecompile.train.device import plan_device
from spacecompile.train.frames.dataset import ValidationFrames

SIZE_PX = (100, 200)


def toy_samples(count: int, *, seed: int, told: bool) -> HeadSamples:
    """Boxes whose right side lacks a tenth of the width in half of the cases, which one feature tells or not."""
    generator = torch.Generator().manual_seed(seed)
    lacks_N = torch.randint(0, 2, (count,), generator=generator)
    features_NChw = torch.rand(count, 6, 3, 3, generator=generator)
    if told:
        features_NChw[:, 2] += 2.0 * lacks_N[:, None, None]
    low_N2 = torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 20.0]) + 10
    size_N2 = torch.rand(count, 2, generator=generator) * 40 + 20
    tight_N4 = torch.cat([low_N2, low_N2 + size_N2], dim=1)
    true_N4 = tight_N4.clone()
    true_N4[:, 2] += 0.1 * size_N2[:, 0] * lacks_N
    return HeadSamples(
        features_NChw=features_NChw.half(),
        tight_N4=tight_N4,
        true_N4=true_N4,
        frame_N=torch.arange(count),
        is_shifted_N=torch.zeros(count, dtype=torch.bool),
    )


SETTINGS = HeadSettings(shape=BoxHead(channels=8), batch_size=16, epochs=40, lr=1e-2)


def test_a_head_learns_what_the_features_tell() -> None:
    head = trained_head(
        toy_samples(96, seed=1, told=True),
        toy_samples(32, seed=2, told=True),
        BoxRule(),
        size_px=SIZE_PX,
        settings=SETTINGS,
    )
    judged = toy_samples(64, seed=3, told=True)
    none = BoxResidualHead(6, SETTINGS.shape)
    assert corrected_ious(none, judged, BoxRule(), SIZE_PX).mean() < 0.96
    assert corrected_ious(head, judged, BoxRule(), SIZE_PX).mean() > 0.985


def test_a_head_is_never_worse_than_none_on_what_it_stops_by() -> None:
    """Sixteen samples without a rule can be learnt by heart, which the others do not reward."""
    stop = toy_samples(64, seed=5, told=False)
    stop.true_N4[:] = stop.tight_N4
    seen: list[tuple[str, int, int]] = []
    head = trained_head(
        toy_samples(16, seed=4, told=False),
        stop,
        BoxRule(),
        size_px=SIZE_PX,
        settings=SETTINGS,
        progress=lambda *report: seen.append(report),
    )
    assert corrected_ious(head, stop, BoxRule(), SIZE_PX).min() == pytest.approx(1.0)
    assert len(seen) == SETTINGS.patience + 1
    assert seen[-1] == ("box head", 40, 40)


def test_an_untrained_head_leaves_the_rules_box() -> None:
    samples = toy_samples(8, seed=6, told=True)
    rule = BoxRule(margins_px=(1.0, 2.0, 3.0, 4.0), margin_shares=(0.1, 0.0, 0.0, 0.0))
    boxes_N4 = corrected_boxes(samples, rule, torch.zeros(8, 4), SIZE_PX)
    width_N = samples.tight_N4[:, 2] - samples.tight_N4[:, 0]
    torch.testing.assert_close(boxes_N4[:, 0], (samples.tight_N4[:, 0] - 1 - 0.1 * width_N).clamp(min=0))
    torch.testing.assert_close(boxes_N4[:, 3], (samples.tight_N4[:, 3] + 4).clamp(max=100))


@pytest.mark.parametrize("offset_xy", [(0, 0), (3, 0), (-2, 1), (5, -4)], ids=str)
def test_shifting_moves_pixels_and_brings_in_black(offset_xy: tuple[int, int]) -> None:
    picture = torch.zeros(3, 12, 16)
    picture[:, 5, 7] = 9.0
    moved: Tensor = shifted(picture, offset_xy)
    assert moved.nonzero()[:, 1:].unique(dim=0).tolist() == [[5 + offset_xy[1], 7 + offset_xy[0]]]
    assert not shifted(torch.ones(1, 12, 16), (16 // 2, 0))[:, :, :8].any()


@pytest.fixture
def toy_network(tiny_checkpoint: Path) -> MultiTaskNetwork:
    return load_checkpoint(tiny_checkpoint).network


def test_shifted_samples_keep_the_craft_in_the_frame_and_move_its_box(
    tiny_data: Path, toy_network: MultiTaskNetwork
) -> None:
    spec = toy_network.spec
    frames = read_split(tiny_data, "train")[:6]
    store = ValidationFrames(
        frames, classes=spec.classes, input_size_px=spec.input_size_px, frame_size_px=spec.frame_size_px
    )
    samples = head_samples(toy_network, store, BoxRule(), plan=plan_device("cpu", amp=False), shifts=3)
    assert 12 <= len(samples.frame_N) <= 24
    assert samples.features_NChw.shape[1:] == (256, 2, 2)
    assert (samples.true_N4 >= 0).all()
    assert (samples.true_N4 <= 128).all()
    for index, frame in enumerate(frames):
        of_frame = samples.chosen(samples.frame_N == index)
        size_N2 = of_frame.true_N4[:, 2:] - of_frame.true_N4[:, :2]
        torch.testing.assert_close(size_N2, size_N2[:1].expand_as(size_N2))
        original_N4 = of_frame.true_N4[~of_frame.is_shifted_N]
        assert np.allclose(original_N4, np.array(frame.box_xyxy) * 128 / 96)
    assert samples.true_N4[samples.is_shifted_N].unique(dim=0).shape[0] > 6


def test_a_head_travels_in_the_checkpoint_through_rewriting_into_the_sealed_graph(
    tiny_data: Path, toy_network: MultiTaskNetwork, tmp_path: Path
) -> None:
    frames = read_split(tiny_data, "val")[:3]
    rule = BoxRule(margins_px=(2.0, 2.0, 2.0, 2.0), residual=True)
    toy_network.spec = replace(toy_network.spec, frame_size_px=(96, 96), box=rule, box_head=BoxHead(bound=0.5))
    toy_network.box_head = BoxResidualHead(256, BoxHead(bound=0.5))
    torch.nn.init.normal_(toy_network.box_head.much.weight, generator=torch.Generator().manual_seed(1))
    save_checkpoint(tmp_path / "head.pt", toy_network, training={})
    network = load_checkpoint(tmp_path / "head.pt").network
    store = ValidationFrames(
        frames, classes=network.spec.classes, input_size_px=(64, 64), frame_size_px=network.spec.frame_size_px
    )
    samples = head_samples(network, store, rule, plan=plan_device("cpu", amp=False), shifts=0)
    assert isinstance(network.box_head, BoxResidualHead)
    with torch.no_grad():
        residuals_N4 = network.box_head(samples.features_NChw.float())
    assert residuals_N4.abs().max() > 0.02
    expected_N4 = corrected_boxes(samples, rule, residuals_N4, network.spec.frame_size_px)
    rewritten, reports = rewrite_network(network)
    assert any(report.changed for report in reports)
    graphs = [SealedGraph(net, net.spec) for net in (network, rewritten)]
    for index, expected_4 in zip(samples.frame_N.tolist(), expected_N4, strict=True):
        frame_HWC = torch.from_numpy(read_frame_HWC(frames[index].image_path).copy())
        for graph in graphs:
            torch.testing.assert_close(graph(frame_HWC)[2].detach(), expected_4, atol=0.1, rtol=0)
