"""Peers are other people's code: whatever one raises costs its own row, not the run.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.agreement import Agreement, AgreementTolerance, Answered, compare
from spacecompile.benchmarks.latency.interleaved import Contestant, Drop
from spacecompile.benchmarks.peers.table import PeerContestant, answered_from_peer, failed
from spacecompile.contract import Progress, no_progress


def answering(
    peers: Sequence[PeerContestant],
    frames_HWC: Sequence[NDArray[np.uint8]],
    reference: Callable[[PeerContestant], Sequence[Answered]],
    tolerance: AgreementTolerance,
    *,
    agreements: dict[str, Agreement],
    missing: dict[str, str],
    progress: Progress = no_progress,
) -> list[PeerContestant]:
    """Compare every peer's answers with a variant's before any of them is timed.

    Args:
        peers: Open.
        frames_HWC: To answer.
        reference: Answers of the variant that a peer is compared with.
        tolerance: Of the comparison.
        agreements: Filled by peer.
        missing: Filled with the reason of every peer that raises.
        progress: Told the peers done.

    Returns:
        Those that answer.
    """
    able = []
    for done, peer in enumerate(peers, start=1):
        try:
            given = [answered_from_peer(peer.run(frame_HWC)) for frame_HWC in frames_HWC]
        except Exception as error:  # noqa: BLE001  see the module
            missing[peer.name] = failed(error)
            continue
        agreements[peer.name] = compare(given, reference(peer), tolerance)
        able.append(peer)
        progress("compare answers", done, len(peers))
    return able


def dropping(peers: Sequence[PeerContestant], missing: dict[str, str]) -> Drop:
    """What `latency.measure` does with a contestant that raises: a peer goes, with its reason; a variant stops the run.

    Args:
        peers: That take part.
        missing: Filled with the reason of every peer that goes.
    """
    names = {peer.name for peer in peers}

    def drop(contestant: Contestant, error: Exception) -> bool:
        if contestant.name not in names:
            return False
        missing[contestant.name] = failed(error)
        return True

    return drop
