"""Peers are other people's code: whatever one raises costs its own row, not the run.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.agreement import Agreement, AgreementTolerance, Answered, compare
from spacecompile.benchmarks.peers.table import PeerContestant, answered_from_peer, failed
from spacecompile.contract import Progress, no_progress


@dataclass(kw_only=True)
class Compared:
    """Peers whose answers were compared.

    Attributes:
        able: Peers that answer.
        agreements: How far the answers of each are from the variant's.
        missing: Why a peer does not answer.
    """

    able: list[PeerContestant] = field(default_factory=list)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def compared(
    peers: Sequence[PeerContestant],
    frames_HWC: Sequence[NDArray[np.uint8]],
    reference: Callable[[PeerContestant], Sequence[Answered]],
    tolerance: AgreementTolerance,
    *,
    progress: Progress = no_progress,
) -> Iterator[Compared]:
    """Compare every peer's answers with a variant's before any of them is timed; yields what is known after each.

    Args:
        peers: Open peers.
        frames_HWC: Frames to answer.
        reference: Gives the answers of the variant that a peer is compared with.
        tolerance: How far apart answers to the same task may be.
        progress: Callback for progress.
    """
    found = Compared()
    for done, peer in enumerate(peers, start=1):
        try:
            given = [answered_from_peer(peer.run(frame_HWC)) for frame_HWC in frames_HWC]
        except Exception as error:  # noqa: BLE001  see the module
            found.missing[peer.name] = failed(error)
            yield found
            continue
        found.agreements[peer.name] = compare(given, reference(peer), tolerance)
        found.able.append(peer)
        yield found
        progress("compare answers", done, len(peers))
