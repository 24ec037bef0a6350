"""Checkpoints of ours on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from spacecompile.errors import CheckpointError, IntegrityError, OutputError, UsageError
from spacecompile.network.checkpoint import load_checkpoint, load_source, save_checkpoint


def test_the_same_weights_give_the_same_bytes_in_any_process_and_under_any_name(
    quick_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not so for safetensors, whose library writes its metadata in an order of its own each time.
    network = load_checkpoint(quick_checkpoint).network
    contents = set()
    for process, folder in ((11, "a"), (12, "b")):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        path = tmp_path / folder / f"{folder}.pt"
        save_checkpoint(path, network, training={"epoch": 1})
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_a_bundle_of_another_network_than_its_checkpoint_s_is_refused(quick_checkpoint: Path) -> None:
    spec = load_checkpoint(quick_checkpoint).spec
    with pytest.raises(UsageError, match="architecture is given as 'Segformer'"):
        load_source(quick_checkpoint, replace(spec, architecture="Segformer"))
    with pytest.raises(IntegrityError, match="names 2 classes, its checkpoint has 3"):
        load_source(quick_checkpoint, replace(spec, classes=("a", "b")))


def test_the_source_of_a_bundle_has_the_bundle_s_spec(quick_checkpoint: Path) -> None:
    own = load_checkpoint(quick_checkpoint).spec
    spec = replace(own, input_size_px=(96, 96), frame_size_px=(192, 192), mean=(0.4, 0.4, 0.4), classes=("a", "b", "c"))
    loaded = load_source(quick_checkpoint, spec)
    assert (loaded.spec, loaded.network.spec) == (spec, spec)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize("half", [False, True])
def test_what_is_stored_comes_back(quick_checkpoint: Path, tmp_path: Path, name: str, half: bool) -> None:
    network = load_checkpoint(quick_checkpoint).network
    save_checkpoint(tmp_path / name, network, training={"epoch": 1}, half=half)
    loaded = load_checkpoint(tmp_path / name)
    assert loaded.training == {"epoch": 1}
    assert loaded.spec == network.spec
    for key, value in network.state_dict().items():
        expected = value.half().float() if half and value.is_floating_point() else value
        assert torch.equal(loaded.network.state_dict()[key], expected)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 100, 5000])
def test_a_truncated_file_is_refused(quick_checkpoint: Path, tmp_path: Path, suffix: str, kept: int) -> None:
    path = tmp_path / f"net{suffix}"
    save_checkpoint(path, load_checkpoint(quick_checkpoint).network, training={})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=path.name):
        load_checkpoint(path)


def test_a_place_that_can_not_be_written_is_said(quick_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(OutputError, match="can't write"):
        save_checkpoint(tmp_path / "file" / "net.pt", load_checkpoint(quick_checkpoint).network, training={})
    assert (tmp_path / "file").read_bytes() == b"mine"
