"""The peers share no code with the sealed graph: where they agree with it, both are right."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

import torch
from torch import nn

from spacecompile.benchmarks.answers import Answered, compare, tolerance_for
from spacecompile.benchmarks.peer_table import PEERS, PeerContestant, answered_from_peer, open_peers
from spacecompile.benchmarks.peers import EagerPeer, plain_smp_network
from spacecompile.benchmarks.torch_reference import TorchReference
from spacecompile.network.checkpoint import LoadedCheckpoint, load_checkpoint

FRAME_SIZE_PX = (128, 128)


def craft_frame(index: int) -> NDArray[np.uint8]:
    """A coloured body with a blue panel on a dark sky, as the fitted network knows them."""
    rng = np.random.default_rng(index)
    frame_HWC = rng.integers(0, 12, (*FRAME_SIZE_PX, 3)).astype(np.uint8)
    top, left = (int(edge_px) for edge_px in rng.integers(12, 44, 2))
    frame_HWC[top : top + 36, left : left + 36] = (255 - 25 * index, 60 + 18 * index, 90)
    frame_HWC[top + 9 : top + 27, left + 36 : left + 72] = (20, 40, 230)
    return frame_HWC


FRAMES_HWC = [craft_frame(index) for index in range(8)]


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> LoadedCheckpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.fixture(scope="module")
def peers(tiny_checkpoint: Path) -> Iterator[dict[str, PeerContestant]]:
    opened, missing = open_peers(tiny_checkpoint, threads=1)
    assert missing == {}
    yield {peer.name: peer for peer in opened}
    for peer in opened:
        peer.close()


@pytest.fixture(scope="module")
def sealed_answers(loaded: LoadedCheckpoint) -> list[Answered]:
    reference = TorchReference(loaded, "none")
    return [reference(frame_HWC) for frame_HWC in FRAMES_HWC]


def given_by(peer: PeerContestant) -> list[Answered]:
    return [answered_from_peer(peer.run(frame_HWC)) for frame_HWC in FRAMES_HWC]


def test_every_row_of_the_table_opens_under_its_name(peers: dict[str, PeerContestant]) -> None:
    assert list(peers) == [entry.name for entry in PEERS]


@pytest.mark.parametrize(
    ("name", "probs_max"),
    [
        # The same area averaging on the way in.
        ("pytorch-eager", 1e-4),
        # Pillow's filter is wider than averaging two pixels, which tells on such small crafts.
        ("plain-export", 0.3),
    ],
)
def test_a_peer_agrees_with_the_sealed_graph_up_to_resize_geometry(
    peers: dict[str, PeerContestant],
    loaded: LoadedCheckpoint,
    sealed_answers: list[Answered],
    name: str,
    probs_max: float,
) -> None:
    assert all(answer.parts_HW.any() for answer in sealed_answers)
    agreement = compare(given_by(peers[name]), sealed_answers, tolerance_for(loaded.spec))
    assert agreement.same
    assert agreement.class_agreement == 1
    assert agreement.class_probs_max <= probs_max
    # One step of half-pixel upsampling and smp's `align_corners` are up to half a decoder pixel apart, 4 px here; a
    # craft of 36 px loses about a tenth of its IoU by that.
    assert agreement.box_px_max <= 4
    assert agreement.parts_iou_mean >= 0.85


def test_with_smp_s_upsampling_in_the_sealed_graph_eager_agrees_to_the_pixel(
    peers: dict[str, PeerContestant], loaded: LoadedCheckpoint
) -> None:
    spec = msgspec.structs.replace(loaded.spec, mask_upsampling="align_corners")
    reference = TorchReference(dataclasses.replace(loaded, spec=spec), "none")
    agreement = compare(given_by(peers["pytorch-eager"]), [reference(frame_HWC) for frame_HWC in FRAMES_HWC])
    assert agreement.class_agreement == 1
    assert agreement.box_px_max <= 1
    # Logits are interpolated here and probabilities there, which moves an edge by less than a pixel.
    assert agreement.parts_iou_mean >= 0.97


def test_the_peers_agree_with_each_other_more_closely(peers: dict[str, PeerContestant]) -> None:
    first, second = (given_by(peer) for peer in peers.values())
    agreement = compare(first, second)
    assert agreement.class_agreement == 1
    assert agreement.parts_iou_mean >= 0.97
    assert agreement.box_px_max <= 2


def test_swapped_channels_would_be_noticed(
    peers: dict[str, PeerContestant], loaded: LoadedCheckpoint, sealed_answers: list[Answered]
) -> None:
    swapped = [np.ascontiguousarray(frame_HWC[..., ::-1]) for frame_HWC in FRAMES_HWC]
    given = [answered_from_peer(peers["plain-export"].run(frame_HWC)) for frame_HWC in swapped]
    assert not compare(given, sealed_answers, tolerance_for(loaded.spec)).same


@pytest.mark.parametrize("name", [entry.name for entry in PEERS])
def test_a_frame_without_a_craft_gives_no_box(peers: dict[str, PeerContestant], name: str) -> None:
    answer = answered_from_peer(peers[name].run(np.zeros((*FRAME_SIZE_PX, 3), np.uint8)))
    assert not answer.parts_HW.any()
    assert answer.box_xyxy.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("name", [entry.name for entry in PEERS])
def test_a_peer_tells_its_engine_apart(peers: dict[str, PeerContestant], name: str) -> None:
    peers[name].run(FRAMES_HWC[0])
    engine_ms = peers[name].engine_ms()
    assert engine_ms is not None
    assert engine_ms > 0


def test_the_plain_network_is_smp_s_own_with_its_upsampling(loaded: LoadedCheckpoint) -> None:
    network = plain_smp_network(loaded)
    assert type(network).__module__.startswith("segmentation_models_pytorch")
    (upsampling,) = (module for module in network.modules() if isinstance(module, nn.Upsample))
    assert upsampling.align_corners
    part_logits_NKhw, class_logits_NL = network(torch.zeros(1, 3, *loaded.spec.input_size_px))
    assert part_logits_NKhw.shape == (1, 2, *loaded.spec.input_size_px)
    assert class_logits_NL.shape == (1, 10)


def test_a_closed_eager_peer_leaves_torch_s_threads_as_they_were(loaded: LoadedCheckpoint) -> None:
    before = torch.get_num_threads()
    peer = EagerPeer(loaded, threads=before + 1)
    assert torch.get_num_threads() == before + 1
    peer.close()
    assert torch.get_num_threads() == before


def test_without_a_checkpoint_every_peer_is_missing_with_the_reason() -> None:
    opened, missing = open_peers("give --checkpoint", threads=1)
    assert opened == []
    assert missing == {entry.name: "give --checkpoint" for entry in PEERS}


def test_a_broken_checkpoint_makes_the_peers_missing_not_the_run_fail(tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(b"not a checkpoint")
    opened, missing = open_peers(path, threads=1)
    assert opened == []
    assert all("broken.pt" in reason for reason in missing.values())


def test_without_the_compiler_the_command_that_adds_it_is_named(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spacecompile.benchmarks.peers", None)
    opened, missing = open_peers(tiny_checkpoint, threads=1)
    assert opened == []
    assert all("pip install 'spacecompile[compile]'" in reason for reason in missing.values())
