from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from craft_frames import FRAMES_HWC, given_by

from spacecompile.benchmarks.agreement import compare
from spacecompile.benchmarks.peers.box import left_out
from spacecompile.benchmarks.peers.table import PEERS, open_peers
from spacecompile.benchmarks.score.torch_reference import TorchReference
from spacecompile.box_rule import BoxHead, BoxRule
from spacecompile.contract import ModelSpec, Tta
from spacecompile.network.checkpoint import LoadedCheckpoint, load_checkpoint


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> LoadedCheckpoint:
    return load_checkpoint(tiny_checkpoint)


def plain_rule(spec: ModelSpec, rule: BoxRule) -> ModelSpec:
    """The same network with smp's own mask geometry, so that boxes are comparable to the pixel."""
    return msgspec.structs.replace(spec, mask_upsampling="align_corners", box=rule)


@pytest.mark.parametrize("name", ["plain-export", "pytorch-eager"])
@pytest.mark.parametrize(
    "rule",
    [
        BoxRule(margins_px=(1.0, 2.0, 0.5, 1.5), margin_shares=(0.2, 0.1, 0.15, 0.05)),
        BoxRule(support_px=8),
        BoxRule(margins_px=(-90.0, -90.0, -90.0, -90.0)),
    ],
    ids=["shares", "support", "inside out"],
)
def test_a_peer_follows_the_box_rule_as_far_as_numpy_goes(
    tiny_checkpoint: Path, loaded: LoadedCheckpoint, name: str, rule: BoxRule
) -> None:
    spec = plain_rule(loaded.spec, rule)
    entries = [entry for entry in PEERS if entry.name == name]
    opened, missing = open_peers(tiny_checkpoint, spec, threads=1, entries=entries)
    assert missing == {}
    reference = TorchReference(dataclasses.replace(loaded, spec=spec), "none")
    plain = TorchReference(dataclasses.replace(loaded, spec=plain_rule(spec, BoxRule())), "none")
    expected, without = ([one(frame_HWC) for frame_HWC in FRAMES_HWC] for one in (reference, plain))
    given = given_by(opened[0])
    opened[0].close()
    # Pillow's resize on the way in moves an edge by up to two pixels.
    assert compare(given, expected).box_px_median <= 2
    assert compare(without, expected).box_px_max > 2


@pytest.mark.parametrize(
    ("changes", "tta", "said"),
    [
        ({}, "none", ""),
        ({"box": BoxRule(softness=0.5)}, "none", "a plain box of the mask, without soft edges"),
        ({"box_d4": BoxRule(views="median")}, "none", ""),
        ({"box_d4": BoxRule(views="median")}, "d4", "a plain box of the mask, without the median of the views' boxes"),
        (
            {"box": BoxRule(residual=True), "box_head": BoxHead()},
            "none",
            "a plain box of the mask, without the box head's correction",
        ),
        ({"box_head": BoxHead()}, "none", "the box head is not run"),
        ({"part_head": "shuffle"}, "none", "smp's network with the bundle's own segmentation head, which smp lacks"),
    ],
    ids=["nothing", "soft", "median without views", "median", "residual", "head that is not used", "shuffle"],
)
def test_what_a_peer_leaves_out_is_said(changes: dict[str, object], tta: Tta, said: str) -> None:
    assert left_out(ModelSpec(**changes), tta) == said  # type: ignore[arg-type]
