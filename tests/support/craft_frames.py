"""Frames with a craft as the fitted network of `tiny_checkpoint` knows it, and a peer's answers to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.agreement import Answered
from spacecompile.benchmarks.peers.table import PeerContestant, answered_from_peer
from spacecompile.box_rule import BoxRule
from spacecompile.contract import ModelSpec

FRAME_SIZE_PX = (128, 128)


def craft_frame(index: int) -> NDArray[np.uint8]:
    """A coloured body with a blue panel on a dark sky, as the fitted network knows them."""
    rng = np.random.default_rng(index)
    frame_HWC = rng.integers(0, 12, (*FRAME_SIZE_PX, 3)).astype(np.uint8)
    top, left = (int(edge_px) for edge_px in rng.integers(12, 44, 2))
    frame_HWC[top : top + 36, left : left + 36] = (255 - 25 * index, 60 + 18 * index, 90)
    frame_HWC[top + 9 : top + 27, left + 36 : left + 72] = (20, 40, 230)
    return frame_HWC


TINY_SPEC = ModelSpec(input_size_px=(64, 64), frame_size_px=FRAME_SIZE_PX, box=BoxRule(margins_px=(1.0, 2.0, 0.5, 1.5)))
"""Of `tiny_checkpoint`."""

FRAMES_HWC = [craft_frame(index) for index in range(8)]


def given_by(peer: PeerContestant) -> list[Answered]:
    return [answered_from_peer(peer.run(frame_HWC)) for frame_HWC in FRAMES_HWC]
