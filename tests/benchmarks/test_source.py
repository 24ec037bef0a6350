from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from craft_frames import TINY_SPEC

from spacecompile.benchmarks.answers import compare
from spacecompile.benchmarks.peer_table import PEERS, answered_from_peer, open_peers
from spacecompile.benchmarks.source import load_source
from spacecompile.benchmarks.torch_reference import TorchReference
from spacecompile.errors import CheckpointError, UsageError
from spacecompile.network.checkpoint import load_checkpoint


def test_peers_do_the_bundle_s_task_and_not_the_checkpoint_s(tiny_checkpoint: Path) -> None:
    spec = msgspec.structs.replace(TINY_SPEC, input_size_px=(96, 96), frame_size_px=(192, 192), mean=(0.4, 0.4, 0.4))
    opened, missing = open_peers(tiny_checkpoint, spec, threads=1, entries=PEERS[:1])
    assert missing == {}
    frame_HWC = np.zeros((192, 192, 3), np.uint8)
    frame_HWC[60:120, 60:120] = (255, 60, 90)
    reference = TorchReference(load_source(tiny_checkpoint, spec), "none")
    given = [answered_from_peer(opened[0].run(frame_HWC))]
    assert compare(given, [reference(frame_HWC)]).class_probs_max <= 0.1
    own = TorchReference(load_checkpoint(tiny_checkpoint), "none")
    assert own.cost().macs_fvcore < reference.cost().macs_fvcore


def test_a_bundle_of_another_network_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="encoder is given as 'mit_b1'"):
        load_source(tiny_checkpoint, msgspec.structs.replace(TINY_SPEC, encoder="mit_b1"))
    with pytest.raises(CheckpointError, match="10 classes, the bundle 2"):
        load_source(tiny_checkpoint, msgspec.structs.replace(TINY_SPEC, classes=("a", "b")))
