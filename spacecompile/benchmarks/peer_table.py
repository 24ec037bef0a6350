"""Which peers there are, and opening those that this machine can run. Imports torch only to open one.

A further peer is one more row of `PEERS` and one more class.

Layout legend: H, W frame rows and columns; C channels (RGB); K parts; L classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.answers import Answered
from spacecompile.contract import Progress, no_progress
from spacecompile.errors import CheckpointError

if TYPE_CHECKING:
    from spacecompile.network.checkpoint import LoadedCheckpoint

PeerAnswer: TypeAlias = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]
"""Class probabilities [L], part masks [K, H, W], box xyxy: what a user's own pipeline ends with."""


class PeerContestant(Protocol):
    """A contestant whose answers can be compared."""

    @property
    def name(self) -> str:
        """Of its row in `PEERS`."""

    @property
    def every(self) -> int:
        """See `latency.Contestant`."""

    def run(self, frame_HWC: NDArray[np.uint8]) -> PeerAnswer:
        """Answer one frame."""

    def engine_ms(self) -> float | None:
        """See `latency.Contestant`."""

    def close(self) -> None:
        """Free what it holds and leave the process as it was."""


@dataclass(frozen=True, kw_only=True)
class PeerEntry:
    """One row of the table.

    Attributes:
        name: Key in the results.
        label: What it does, in one line.
        module, factory: Where its factory lies; imported only to open it.
    """

    name: str
    label: str
    module: str
    factory: str

    def open(self, checkpoint: LoadedCheckpoint, *, threads: int) -> PeerContestant:
        """Make the peer ready to run."""
        make: Callable[..., PeerContestant] = getattr(import_module(self.module), self.factory)
        return make(checkpoint, threads=threads)


PEERS = (
    PeerEntry(
        name="plain-export",
        label="plain smp export: Pillow resize, NumPy, ONNX Runtime, NumPy sigmoid, Pillow resize, threshold, box",
        module="spacecompile.benchmarks.peers",
        factory="PlainExportPeer",
    ),
    PeerEntry(
        name="pytorch-eager",
        label="PyTorch eager: tensor, F.interpolate, smp network, sigmoid, F.interpolate, threshold, box",
        module="spacecompile.benchmarks.peers",
        factory="EagerPeer",
    ),
)
"""In the order of the tables."""


def open_peers(
    checkpoint: Path | str, *, threads: int, progress: Progress = no_progress
) -> tuple[list[PeerContestant], dict[str, str]]:
    """Open every peer that can run here.

    Args:
        checkpoint: With the weights; a text says why there is none, and what to do.
        threads: Of each.
        progress: Told the peers done.

    Returns:
        The peers, and for each of the others why it is missing and what adds it.
    """
    if isinstance(checkpoint, str):
        return [], {entry.name: checkpoint for entry in PEERS}
    opened: list[PeerContestant] = []
    try:
        loaded = import_module("spacecompile.network.checkpoint").load_checkpoint(checkpoint)
        for entry in PEERS:
            progress("open peers", len(opened), len(PEERS))
            opened.append(entry.open(loaded, threads=threads))
        progress("open peers", len(opened), len(PEERS))
    except ModuleNotFoundError as error:
        reason = f"the package {error.name} is not installed; add it with: pip install 'spacecompile[compile]'"
    except CheckpointError as error:
        reason = str(error)
    else:
        return opened, {}
    return opened, {entry.name: reason for entry in PEERS[len(opened) :]}


def answered_from_peer(answer: PeerAnswer) -> Answered:
    """A peer's answer in the common form; apart from `run`, since a user needs no packed mask."""
    class_probs_L, parts_KHW, box_xyxy = answer
    bits_K11 = np.asarray([1 << part for part in range(len(parts_KHW))], np.uint8).reshape(-1, 1, 1)
    packed_HW = (parts_KHW * bits_K11).sum(axis=0, dtype=np.uint8)
    return Answered(class_probs_L=class_probs_L, parts_HW=packed_HW, box_xyxy=box_xyxy)
