"""Several processes: the same batches, the same losses, one set of files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from spacecompile import extras
from spacecompile.cli.main import main
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train.processes import Alone, Launch, join

pytestmark = pytest.mark.xdist_group("processes")  # what the module's tests share is made once

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(("size", "batch_size"), [(2, 4), (3, 6), (4, 4)])
def test_together_the_processes_see_the_batches_of_one(size: int, batch_size: int) -> None:
    order_N = torch.randperm(27, generator=torch.Generator().manual_seed(0))
    shares = []
    for rank in range(size):
        world = Alone()
        world.rank, world.size = rank, size
        shares.append(world.order_of(order_N, batch_size).reshape(-1, batch_size // size))
    whole = order_N[: len(order_N) // batch_size * batch_size].reshape(-1, batch_size)
    assert torch.equal(torch.cat(shares, 1), whole)


def test_a_batch_that_can_not_be_shared_out_is_refused() -> None:
    world = Alone()
    world.size = 3
    with pytest.raises(UsageError, match="--batch-size that is a multiple"):
        world.share_of(8)


def test_one_gpu_for_several_processes_is_refused() -> None:
    with pytest.raises(UsageError, match="--device cuda or cpu"):
        join(Launch(processes=2, nodes=1), "cuda:1")


def test_a_missing_extra_is_said_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(MissingPartError, match=r"pip install 'spacecompile\[distributed\]'"):
        join(Launch(processes=2, nodes=1), "cpu")


def in_one_and_in_two(folder: Path, data: Path, start: Path, *given: str) -> tuple[Path, Path]:
    """The same run in one process and in two."""
    arguments = [
        *("train", "--data", str(data), "--init", str(start), "--batch-size", "8", "--augment", "none", "--lr", "1e-4"),
        *("--encoder-lr-scale", "1", "--no-amp", "--device", "cpu", "--threads", "1", *given),
    ]
    assert main([*arguments, "-o", str(folder / "one")]) == 0
    launch = ["-W", "error::FutureWarning", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "spacecompile", *arguments, "-o", str(folder / "two"), "--json", "-"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error::FutureWarning"},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr  # torch's, of gradients that are copied since they lie otherwise
    # One of the two talks.
    assert done.stderr.count("next: spacecompile calibrate") == 1
    assert json.loads(done.stdout[done.stdout.index("{") :])["checkpoint"] == str(folder / "two" / "model.pt")
    return folder / "one", folder / "two"


@pytest.fixture(scope="module")
def fused_checkpoint(still_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `still_checkpoint`, with a decoder that training goes another way through; nothing in it is dropped."""
    options = {"decoder_segmentation_channels": 16}
    spec = msgspec.structs.replace(
        load_checkpoint(still_checkpoint).spec, architecture="Segformer", decoder_options=options
    )
    path = tmp_path_factory.mktemp("checkpoints") / "fused.pt"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_checkpoint(path, MultiTaskNetwork(spec).eval(), training={})
    return path


@pytest.fixture(scope="module")
def runs(tiny_data: Path, fused_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    given = ("--epochs", "2", "--limit-frames", "24", "--ema", "0.9", "--sync-batchnorm")
    return in_one_and_in_two(tmp_path_factory.mktemp("runs"), tiny_data, fused_checkpoint, *given)


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def test_two_processes_give_the_losses_of_one(runs: tuple[Path, Path]) -> None:
    one, two = (lines_of(run) for run in runs)
    assert len(one) == len(two) == 2
    for alone, together in zip(one, two, strict=True):
        assert together["losses"] == pytest.approx(alone["losses"], rel=1e-4)
        assert together["lr"] == alone["lr"]
    assert one[1]["losses"]["loss"] < one[0]["losses"]["loss"]


def test_two_processes_give_the_weights_of_one(runs: tuple[Path, Path]) -> None:
    one, two = (torch.load(run / "last.pt", weights_only=True)["averaged"] for run in runs)
    for name, value in one.items():
        assert torch.allclose(two[name].float(), value.float(), atol=2e-4), name
    facts = [load_checkpoint(run / "model.pt").training["processes"] for run in runs]
    assert facts == [1, 2]


@pytest.mark.slow
def test_two_processes_give_every_loss_and_every_broken_file_of_one(
    data_with_broken_files: Path, still_checkpoint: Path, tmp_path: Path
) -> None:
    weights = ("--box-loss-weight", "1", "--lovasz-weight", "1", "--teacher", str(still_checkpoint))
    given = ("--epochs", "1", "--sync-batchnorm", *weights)
    runs = in_one_and_in_two(tmp_path, data_with_broken_files, still_checkpoint, *given)
    ((alone,), (together,)) = (lines_of(run) for run in runs)
    assert set(alone["losses"]) == {"loss", "dice", "bce", "cls", "lovasz", "box", "teacher"}
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-3)
    broken = [json.loads((run / "train.json").read_text())["broken_files"] for run in runs]
    assert len(broken[0]) == 2
    assert broken[0] == broken[1]


def test_on_cpus_each_process_has_its_own_statistics_and_frozen_stages_stay(
    tmp_path: Path, tiny_data: Path, still_checkpoint: Path
) -> None:
    given = ("--epochs", "1", "--freeze-stages", "2")
    one, two = in_one_and_in_two(tmp_path, tiny_data, still_checkpoint, *given)
    start = load_checkpoint(still_checkpoint).network.state_dict()
    alone, together = (torch.load(run / "last.pt", weights_only=True)["network"] for run in (one, two))
    frozen = [
        name for name in start if name.startswith(("encoder.model.conv1", "encoder.model.bn1", "encoder.model.layer1"))
    ]
    assert all(torch.equal(together[name], start[name]) for name in frozen)
    # Of half as many frames: near those of one process, and not the same.
    statistics = [name for name in start if name.endswith("running_mean") and name not in frozen]
    assert all(not torch.equal(together[name], alone[name]) for name in statistics)
    (losses_alone,), (losses_together,) = (lines_of(run) for run in (one, two))
    assert losses_together["losses"]["loss"] == pytest.approx(losses_alone["losses"]["loss"], rel=0.1)
    assert losses_together["losses"]["loss"] != losses_alone["losses"]["loss"]
