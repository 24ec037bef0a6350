"""One candidate trained: what runs in a process of Ray's, on whichever machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from spacecompile.contract import Cost
from spacecompile.errors import DivergedError, MissingPartError, OutputError, SpacecompileError, UsageError
from spacecompile.metrics import Scores, with_cost
from spacecompile.record import Record
from spacecompile.search.ray_import import tune
from spacecompile.train.frames.dataset import Cache
from spacecompile.train.loop import Callbacks, EpochReport
from spacecompile.train.named_recipes import NamedRecipe
from spacecompile.train.run import TrainJob, train


class TrialSetup(Record):
    """What all candidates of a search share.

    Attributes:
        data: Absolute path of the frames, on every machine.
        device: `auto`, `cpu` or `cuda`.
        cache: Where decoded frames stay.
        val_frames, limit_frames: Frames to use; 0 for all.
        threads: CPU threads per candidate.
        keep_models: Whether the trained network of each candidate is kept.
    """

    data: str
    device: str = "auto"
    cache: Cache = "auto"
    val_frames: int = 0
    limit_frames: int = 0
    threads: int = 1
    keep_models: bool = True


def device_for(device: str, gpus: float) -> str:
    """Where a candidate trains that was given so many GPUs.

    Args:
        device: `auto`, `cpu` or `cuda`.
        gpus: Number of GPUs that Ray reserves for it.

    Raises:
        UsageError: If the name is another, or CUDA is wanted and no GPU is reserved.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device is {device!r}. Give --device auto, cpu or cuda; Ray chooses which GPU.")
    if gpus > 1 and gpus != int(gpus):
        raise UsageError(f"{gpus:g} GPUs per candidate can't be reserved. Give --gpus a whole number, or 1 or less.")
    if device == "cuda" and not gpus:
        raise UsageError("--device cuda needs a GPU per candidate. Give --gpus 1, or a fraction to share one.")
    # A candidate without a GPU of its own still sees all of them, and all candidates would take the first.
    return device if gpus else "cpu"


class Told(Record):
    """What a candidate tells after each epoch and at its end.

    Attributes:
        epoch: Number of the epoch that is done.
        finished: Whether the training is over, with the network rounded, its box calibrated and all frames scored.
        s_final: At the rewritten network's cost; what is compared. 0 after a divergence.
        scores: Scores after the epoch; None after a divergence in the first epoch.
        elapsed_s: Seconds of training so far.
        frames_per_s: Frames per second in the epoch.
        history: `s_acc` after each epoch so far.
        diverged, failed: The sentence, where it ended so.
    """

    epoch: int
    finished: bool
    s_final: float = 0.0
    scores: Scores | None = None
    elapsed_s: float = 0.0
    frames_per_s: float = 0.0
    history: tuple[float, ...] = ()
    diverged: str = ""
    failed: str = ""


def run_candidate(
    candidate: NamedRecipe,
    setup: TrialSetup,
    *,
    cost: Cost,
    output: Path,
    before: Told | None,
    tell: Callable[[Told], None],
) -> None:
    """Train one candidate to its end.

    Args:
        candidate: What to train.
        setup: On what.
        cost: Cost of its rewritten network, for the scores.
        output: Folder of the run; holds the state to go on from where `before` is given.
        before: What an earlier attempt told last.
        tell: Called after every epoch and at the end.

    Raises:
        OutputError, MissingPartError: If the machine is at fault, such as a full disk: another attempt may succeed.
    """
    if before and before.finished:  # stopped between telling the end and ending
        tell(before)
        return
    last = before or Told(epoch=0, finished=False)

    def on_epoch(report: EpochReport) -> None:
        nonlocal last
        last = _told_after(report, last, cost)
        tell(last)

    torch.set_num_threads(setup.threads)
    replace = msgspec.structs.replace
    try:
        report = train(
            _job_of(candidate, setup, output=output, resume=before is not None), callbacks=Callbacks(on_epoch=on_epoch)
        )
    except DivergedError as error:
        tell(replace(last, finished=True, s_final=0.0, diverged=str(error)))
    except (OutputError, MissingPartError):
        raise
    except SpacecompileError as error:
        # Another attempt would end the same way.
        tell(replace(last, finished=True, s_final=0.0, failed=str(error)))
    else:
        scores = with_cost(report.scores, cost)
        tell(replace(last, finished=True, s_final=scores.s_final, scores=scores, elapsed_s=report.elapsed_s))


def _job_of(candidate: NamedRecipe, setup: TrialSetup, *, output: Path, resume: bool) -> TrainJob:
    return TrainJob(
        data=Path(setup.data),
        output=output,
        recipe=candidate.recipe,
        spec_changes=candidate.spec_changes(),
        resume=resume,
        device=setup.device,
        cache=setup.cache,
        val_frames=setup.val_frames,
        limit_frames=setup.limit_frames,
        command=f"search: {candidate.name}",
    )


def _told_after(report: EpochReport, last: Told, cost: Cost) -> Told:
    scores = with_cost(report.scores, cost)
    return Told(
        epoch=report.epoch,
        finished=False,
        s_final=scores.s_final,
        scores=scores,
        elapsed_s=report.elapsed_s,
        frames_per_s=report.frames_per_s,
        history=(*last.history, scores.s_acc),
    )


def trainable(config: dict[str, Any]) -> None:
    """What Ray Tune calls: `run_candidate` with checkpoints that another process, or machine, goes on from."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    candidate = msgspec.convert(config["both"]["candidate"], NamedRecipe)
    setup = msgspec.convert(config["setup"], TrialSetup)
    with tempfile.TemporaryDirectory(prefix="spacecompile-trial-") as folder:
        output = Path(folder) / "run"

        def tell(told: Told) -> None:
            kept = {"told": msgspec.to_builtins(told), "epoch": told.epoch, "s_final": told.s_final}
            has_state = (output / "last.pt").is_file()
            if has_state:
                (output / "told.json").write_bytes(msgspec.json.encode(told))
            if told.finished:
                for name in ("last.pt", "best.pt") if setup.keep_models else ("last.pt", "best.pt", "model.pt"):
                    (output / name).unlink(missing_ok=True)
            checkpoint = tune.Checkpoint.from_directory(str(output)) if has_state else None
            tune.report(kept, checkpoint=checkpoint)

        run_candidate(
            candidate,
            setup,
            cost=msgspec.convert(config["both"]["cost"], Cost),
            output=output,
            before=_state_before(output),
            tell=tell,
        )


def _state_before(output: Path) -> Told | None:
    """Lay out what an earlier attempt kept; None where there was none."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as kept:
        shutil.copytree(kept, output)
    return msgspec.json.decode((output / "told.json").read_bytes(), type=Told)
