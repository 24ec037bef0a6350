"""A run survives what ends it: a kill at any moment, a full disk, numbers that are none."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spacecompile.errors import DivergedError, OutputError
from spacecompile.network.checkpoint import load_checkpoint, save_checkpoint
from spacecompile.train import objective, step
from spacecompile.train.loop import Callbacks, EpochReport
from spacecompile.train.losses import Losses
from spacecompile.train.recipe import Recipe
from spacecompile.train.run import TrainJob, train

pytestmark = pytest.mark.xdist_group("safety")  # what the module's tests share is made once

RECIPE = Recipe(epochs=2, batch_size=8, lr=1e-3, encoder_lr_scale=1.0, ema=0.9, lovasz_weight=0.5, seed=4)

KILLS = {
    "before the first epoch's weights are in place": ("best.pt", 1),
    "between the first epoch's weights and its state": ("last.pt", 1),
    "between a state and its history": ("history.jsonl", 2),
    "while the second epoch's state is written": ("last.pt", 2),
    "while the checkpoint is written": ("model.pt", 1),
}
"""File, and which time it was about to take its place when the process was killed."""

# Forks, so that torch is imported once. A process of its own, since the tests' own may have threads.
DRIVER = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from spacecompile.train.run import train
    sys.path.insert(0, {tests!r})
    from test_safety import KILLS, job_of

    torch.set_num_threads(1)
    for case, (name, nth) in KILLS.items():
        child = os.fork()
        if not child:
            seen, original = 0, Path.replace

            def watched(self, target):
                global seen
                seen += Path(target).name == name
                if Path(target).name == name and seen == nth:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(self, target)

            Path.replace = watched
            train(job_of(Path({data!r}), Path({start!r}), Path({runs!r}) / case))
            os._exit(0)
        print(os.waitpid(child, 0)[1])
"""


def job_of(data: Path, start: Path, output: Path) -> TrainJob:
    return TrainJob(data=data, output=output, recipe=RECIPE, init=start, device="cpu", val_frames=4, limit_frames=16)


def history_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("epoch", "losses", "scores", "lr")} for line in lines]


@pytest.fixture(scope="module")
def finished(tiny_data: Path, still_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "finished"
    train(job_of(tiny_data, still_checkpoint, output))
    return output


@pytest.fixture(scope="module")
def killed(tiny_data: Path, still_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder per case of `KILLS`."""
    runs = tmp_path_factory.mktemp("killed")
    driver = textwrap.dedent(DRIVER).format(
        tests=str(Path(__file__).parent), data=str(tiny_data), start=str(still_checkpoint), runs=str(runs)
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", driver], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["9"] * len(KILLS), done.stderr
    return runs


@pytest.mark.parametrize("case", list(KILLS))
def test_a_killed_run_goes_on_and_ends_as_if_it_had_lived(
    killed: Path, finished: Path, tiny_data: Path, still_checkpoint: Path, case: str
) -> None:
    run = killed / case
    for name in ("best.pt", "model.pt"):
        if (run / name).exists():
            load_checkpoint(run / name)
    job = job_of(tiny_data, still_checkpoint, run)
    # Without a state there is nothing to resume, and the same command begins anew.
    train(replace(job, resume=True, init=None) if (run / "last.pt").exists() else job)
    assert history_of(run) == history_of(finished)
    ours, theirs = (load_checkpoint(folder / "model.pt").network.state_dict() for folder in (run, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not list(run.glob(".partial-*"))


def test_weights_of_a_later_epoch_are_never_overwritten_though_their_state_is_gone(
    finished: Path, tiny_data: Path, still_checkpoint: Path, tmp_path: Path
) -> None:
    loaded = load_checkpoint(finished / "best.pt")
    save_checkpoint(tmp_path / "run" / "best.pt", loaded.network, training={"epoch": 2})
    (tmp_path / "run" / "train.json").write_text('{"finished": false}')
    with pytest.raises(OutputError, match="--force"):
        train(job_of(tiny_data, still_checkpoint, tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run" / "best.pt").training == {"epoch": 2}


@contextmanager
def _files_end_at(limit_bytes: int) -> Iterator[None]:
    """Writes beyond this size fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_within_a_checkpoint_leaves_the_earlier_ones_whole(
    finished: Path, tiny_data: Path, still_checkpoint: Path, tmp_path: Path
) -> None:
    job = job_of(tiny_data, still_checkpoint, tmp_path / "run")
    kept: dict[str, bytes] = {}

    def fill_up(report: EpochReport) -> None:
        kept.update({name: (job.output / name).read_bytes() for name in ("best.pt", "last.pt", "history.jsonl")})
        limits.enter(len(kept["best.pt"]) // 2)

    class Limits:
        active: Any = None

        def enter(self, limit_bytes: int) -> None:
            if self.active is None:
                self.active = _files_end_at(limit_bytes)
                self.active.__enter__()

    limits = Limits()
    try:
        with pytest.raises(OutputError, match=r"can't write .*\.pt: .*free space"):
            train(job, callbacks=Callbacks(on_epoch=fill_up))
    finally:
        limits.active.__exit__(None, None, None)
    assert kept == {name: (job.output / name).read_bytes() for name in kept}
    assert not list(job.output.glob(".partial-*"))
    train(replace(job, resume=True, init=None))
    assert history_of(job.output) == history_of(finished)


def test_a_gradient_that_is_no_number_stops_the_run_before_it_reaches_the_weights(
    tiny_data: Path, still_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is finite, its gradient is not: sqrt at 0."""
    steps, original = 0, objective.batch_losses

    def broken(*arguments: Any, **options: Any) -> Losses:
        nonlocal steps
        steps += 1
        losses = original(*arguments, **options)
        bad = losses.total + (0 * losses.total).sqrt() if steps == 4 else losses.total
        return Losses(total=bad, terms=losses.terms)

    monkeypatch.setattr(step, "batch_losses", broken)
    job = job_of(tiny_data, still_checkpoint, tmp_path / "run")
    with pytest.raises(DivergedError, match=r"epoch 2: the gradient is not finite\. Lower --lr .*last\.pt holds epoch"):
        train(job)
    assert steps == 4
    load_checkpoint(job.output / "best.pt")
    assert [line["epoch"] for line in history_of(job.output)] == [1]


def test_weights_that_are_no_numbers_are_never_stored(tiny_data: Path, still_checkpoint: Path, tmp_path: Path) -> None:
    job = job_of(tiny_data, still_checkpoint, tmp_path / "run")

    def stop(report: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, callbacks=Callbacks(on_epoch=stop))
    state = torch.load(job.output / "last.pt", weights_only=True)
    # Training mode does not read it, so no loss shows it.
    name = next(name for name in state["averaged"] if name.endswith("running_var"))
    state["averaged"][name].fill_(float("nan"))
    torch.save(state, job.output / "last.pt")
    best = (job.output / "best.pt").read_bytes()
    with pytest.raises(DivergedError, match=f"{name} is not finite"):
        train(replace(job, resume=True, init=None))
    assert (job.output / "best.pt").read_bytes() == best
