from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from spacecompile.benchmarks import source_checkpoint as checkpoints
from spacecompile.benchmarks.source_checkpoint import check_checkpoint, find_checkpoint, reference_checkpoint
from spacecompile.errors import CheckpointError, MissingPartError

CONTENT = b"weights of a network"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def outside_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "clone_folder", lambda: None)


@pytest.mark.usefixtures("outside_a_clone")
@pytest.mark.parametrize("place", ["work/checkpoints/a.pt", "bundles/renamed.safetensors"])
def test_the_source_is_found_by_its_hash_whatever_its_name(tmp_path: Path, place: str) -> None:
    for name in ("work/checkpoints", "bundles/net.spacepkg"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "work/checkpoints/other.pt").write_bytes(b"other weights")
    (tmp_path / place).write_bytes(CONTENT)
    found = find_checkpoint(SHA256, bundle_root=tmp_path / "bundles/net.spacepkg", working_folder=tmp_path / "work")
    assert found == tmp_path / place


@pytest.mark.usefixtures("outside_a_clone")
def test_a_source_that_is_nowhere_gives_none(tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(b"other weights")
    (tmp_path / "notes.txt").write_bytes(CONTENT)
    assert find_checkpoint(SHA256, bundle_root=tmp_path / "net.spacepkg", working_folder=tmp_path) is None


def test_a_named_checkpoint_with_the_right_hash_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(CONTENT)
    assert check_checkpoint(path, SHA256) == path


def test_a_named_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(b"other weights")
    with pytest.raises(CheckpointError, match=SHA256[:12]):
        check_checkpoint(path, SHA256)


def test_a_named_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        check_checkpoint(tmp_path / "none.pt", SHA256)


@pytest.mark.usefixtures("outside_a_clone")
def test_outside_a_clone_the_reference_checkpoint_is_a_missing_part() -> None:
    with pytest.raises(MissingPartError, match="clone") as caught:
        reference_checkpoint()
    assert caught.value.exit_code == 3
