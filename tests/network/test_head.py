from __future__ import annotations

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from spacecompile.contract import ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.export.rewrite.pipeline import rewrite_network
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.network.head import shuffle_head
from spacecompile.network.model import MultiTaskNetwork

SPEC = ModelSpec(
    encoder="tu-test_resnet",
    encoder_depth=4,
    decoder_options={"decoder_segmentation_channels": 16},
    part_head="shuffle",
    input_size_px=(64, 64),
    frame_size_px=(128, 128),
)


def test_part_logits_are_at_half_the_input_instead_of_a_quarter() -> None:
    network = MultiTaskNetwork(SPEC).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 64, 64))[1].shape == (1, 2, 32, 32)
        plain = MultiTaskNetwork(replace(SPEC, part_head="plain")).eval()
        assert plain(torch.zeros(1, 3, 64, 64))[1].shape == (1, 2, 16, 16)


def test_it_starts_without_a_checkerboard() -> None:
    torch.manual_seed(0)
    head = shuffle_head(16)
    with torch.no_grad():
        shuffled_NChw = head[1](head[0](torch.rand(1, 16, 5, 7)))
    pixels = shuffled_NChw.unflatten(3, (7, 2)).unflatten(2, (5, 2))
    assert torch.equal(pixels, pixels[:, :, :, :1, :, :1].expand_as(pixels))
    assert shuffled_NChw.std() > 0.01


def test_a_decoder_at_the_inputs_size_refuses_it() -> None:
    with pytest.raises(CheckpointError, match="Use part head 'plain'"):
        MultiTaskNetwork(replace(SPEC, architecture="Unet", decoder_options={"decoder_channels": [32, 16, 16, 8]}))


def test_it_is_kept_in_a_checkpoint_and_other_heads_are_refused(tmp_path) -> None:
    network = MultiTaskNetwork(SPEC).eval()
    save_checkpoint(tmp_path / "a.pt", network, training={})
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert loaded.spec.part_head == "shuffle"
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value)
    with pytest.raises(Exception, match="part_head is given as 'plain'"):
        load_checkpoint(tmp_path / "a.pt", given={"part_head": "plain"})


def test_rewriting_and_sealing_give_the_same_answers() -> None:
    torch.manual_seed(3)
    network = MultiTaskNetwork(SPEC).eval()
    with torch.no_grad():
        network.segmentation_head[3].weight.mul_(40)  # type: ignore[index, union-attr, operator]
    rewritten, reports = rewrite_network(network)
    assert any(report.changed for report in reports)
    frame_HWC = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8))
    with torch.no_grad():
        plain = SealedGraph(network, SPEC)(frame_HWC)
        small = SealedGraph(rewritten, rewritten.spec)(frame_HWC)
    assert (plain[1] != small[1]).float().mean() < 1e-3
    assert 0 < int((plain[1] > 0).sum()) < plain[1].numel()
    assert torch.allclose(plain[0], small[0], atol=1e-5)
