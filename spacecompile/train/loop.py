"""The epochs: steps, validation, what is kept after each.

Layout legend: N frames, C channels, H W input rows and columns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec
import torch

from spacecompile.contract import Cost
from spacecompile.data.broken import refuse_too_many
from spacecompile.errors import DivergedError, UsageError
from spacecompile.files import write_file
from spacecompile.metrics import Scores
from spacecompile.network.checkpoint import save_checkpoint
from spacecompile.train.box.losses import warmed_up
from spacecompile.train.device import DevicePlan
from spacecompile.train.evaluate import score_rules
from spacecompile.train.frames.dataset import Batch, TrainingFrames, ValidationFrames
from spacecompile.train.frames.loader import worker_deaths_told
from spacecompile.train.freeze import train_mode
from spacecompile.train.fused_decoder import TrainingForward
from spacecompile.train.objective import Objective
from spacecompile.train.optimise import lr_factor, set_lr
from spacecompile.train.processes import World
from spacecompile.train.state import TrainingState, save_state
from spacecompile.train.step import require_finite_weights, train_step
from spacecompile.train.teacher import Teacher

EPOCH_SEED_STRIDE = 1_000_003
"""Prime, so that runs with neighbouring seeds share no epoch's order."""

RANK_SEED_STRIDE = 7_368_787
"""Prime likewise: the processes of one run augment their frames differently."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What a caller can show after a step.

    Attributes:
        epoch, epochs: From 1.
        step, steps: Within the epoch, from 1.
        losses: Means over the epoch so far: `loss`, then its terms.
        lr: Learning rate of decoder and heads.
        frames_per_s: Over the epoch so far.
        waiting_share: Part of that time in which the step waited for decoded frames, 0 to 1.
        run_share: Part of the whole run that is done, 0 to 1.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: dict[str, float]
    lr: float
    frames_per_s: float
    waiting_share: float
    run_share: float


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What happened in one epoch; also a line of `history.jsonl`."""

    epoch: int
    epochs: int
    losses: dict[str, float]
    scores: Scores
    lr: float
    frames_per_s: float
    waiting_share: float
    elapsed_s: float
    is_best: bool


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """How the loop tells a caller where it is. It never prints itself."""

    on_step: Callable[[StepReport], None] = lambda _: None
    on_epoch: Callable[[EpochReport], None] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class LoopInputs:
    """What the epochs need beside the state.

    Attributes:
        train_frames, val_frames: To learn from and to score on.
        plan: Device and precision.
        cost: For the scores.
        output: Folder for `last.pt`, `best.pt` and `history.jsonl`.
        world: The processes that train together.
        teacher: To imitate, if there is one.
    """

    train_frames: TrainingFrames
    val_frames: ValidationFrames
    plan: DevicePlan
    cost: Cost
    output: Path
    world: World
    teacher: Teacher | None = None


@worker_deaths_told()
def run_epochs(state: TrainingState, inputs: LoopInputs, callbacks: Callbacks) -> None:
    """Train until the recipe's epochs or its time are used up, saving after every epoch.

    Raises:
        DataError: If too many files are broken.
        DivergedError: If the training diverged; the files of the last good epoch are left as they are.
        OutputError: If a file can't be written.
        UsageError: If a decoding process died.
    """
    recipe, is_first = state.recipe, inputs.world.is_first
    objective = Objective(
        spec=state.network.spec,
        recipe=recipe,
        plan=inputs.plan,
        forward=inputs.world.wrapped(TrainingForward(state.network)),
        teacher=inputs.teacher,
    )
    if state.history and is_first:  # a kill between the state and its history leaves the history one epoch behind
        _write_history(state, inputs.output)
    while state.epochs_done < recipe.epochs and not _is_over(state):
        try:
            report = _run_epoch(state, inputs, objective, callbacks)
            require_finite_weights(state)
        except DivergedError as error:
            _stop_diverged(error, state, inputs.output)
        state.epochs_done += 1
        state.history.append(json.loads(msgspec.json.encode(report)))
        if report.is_best:
            state.best_s_acc = report.scores.s_acc
        if is_first:
            _save(state, inputs.output, report)
        callbacks.on_epoch(report)


def _save(state: TrainingState, output: Path, report: EpochReport) -> None:
    """Weights first: a kill before the state is there repeats the epoch, which gives the same weights again."""
    if report.is_best:
        facts = {"epoch": report.epoch, "scores": json.loads(msgspec.json.encode(report.scores))}
        save_checkpoint(output / "best.pt", state.evaluated, training=facts)
    try:
        save_state(output / "last.pt", state)
    except BaseException:
        if state.epochs_done == 1:  # best weights without a state could be neither resumed nor begun again
            (output / "best.pt").unlink(missing_ok=True)
        raise
    _write_history(state, output)


def _write_history(state: TrainingState, output: Path) -> None:
    write_file(output / "history.jsonl", "".join(json.dumps(line) + "\n" for line in state.history))


def _stop_diverged(error: DivergedError, state: TrainingState, output: Path) -> NoReturn:
    kept = f"{output / 'last.pt'} holds epoch {state.epochs_done}" if state.epochs_done else "no epoch was finished"
    raise DivergedError(
        f"training diverged in epoch {state.epochs_done + 1}: {error}. Lower --lr (now "
        f"{state.recipe.lr:g}) or --clip (now {state.recipe.clip_norm:g}) and start anew; {kept}."
    ) from error


def steps_per_epoch(frames: int, batch_size: int) -> int:
    """Whole batches in one pass over so many frames.

    Raises:
        UsageError: If the frames don't fill one batch.
    """
    if frames < batch_size:
        raise UsageError(
            f"{frames} training frames don't fill one batch of {batch_size}. Lower --batch-size or take more frames."
        )
    return frames // batch_size


def _is_over(state: TrainingState) -> bool:
    return 0 < state.recipe.time_limit_min * 60 <= state.elapsed_s


def _run_share(state: TrainingState, steps: int) -> float:
    share = state.steps_done / (steps * state.recipe.epochs)
    if state.recipe.time_limit_min:
        share = max(share, state.elapsed_s / (60 * state.recipe.time_limit_min))
    return min(1.0, share)


def _craft_share(state: TrainingState, steps: int) -> float:
    """Of the epoch that begins: falls linearly from the recipe's `zoom` to 0."""
    recipe = state.recipe
    return recipe.zoom * max(0.0, 1 - _run_share(state, steps) / recipe.zoom_until) if recipe.zoom_until else 0.0


def _run_epoch(state: TrainingState, inputs: LoopInputs, objective: Objective, callbacks: Callbacks) -> EpochReport:
    recipe, world, start_s, elapsed_before_s = state.recipe, inputs.world, time.perf_counter(), state.elapsed_s

    def clock_s() -> float:
        spent_s = time.perf_counter() - start_s
        # Only a time limit makes the clock matter: it then ends the run, in all processes at once.
        return world.from_first(lambda: spent_s) if recipe.time_limit_min else spent_s

    train_mode(state.network, recipe)
    means = _Means()
    steps, report = steps_per_epoch(len(inputs.train_frames), recipe.batch_size), None
    batches, generator = _epoch_batches(state, inputs, steps)
    waited = _Waiting()
    for step, batch in enumerate(waited.passing(batches), 1):
        lr = _set_lr(state, steps)
        box_weight = _box_weight(state, inputs.train_frames, steps)
        losses = train_step(state, objective, batch, world=world, generator=generator, box_weight=box_weight)
        means.add(losses)
        spent_s = clock_s()
        state.steps_done += 1
        state.elapsed_s = elapsed_before_s + spent_s
        report = StepReport(
            epoch=state.epochs_done + 1,
            epochs=recipe.epochs,
            step=step,
            steps=steps,
            losses=means.by_name,
            lr=lr,
            frames_per_s=step * recipe.batch_size / spent_s,
            waiting_share=waited.seconds / spent_s,
            run_share=_run_share(state, steps),
        )
        callbacks.on_step(report)
        if _is_over(state):
            break
    assert report is not None  # steps_per_epoch is at least 1
    scores = _scored(state, inputs)
    state.elapsed_s = elapsed_before_s + clock_s()
    return EpochReport(
        epoch=report.epoch,
        epochs=recipe.epochs,
        losses=report.losses,
        scores=scores,
        lr=report.lr,
        frames_per_s=report.frames_per_s,
        waiting_share=report.waiting_share,
        elapsed_s=state.elapsed_s,
        is_best=scores.s_acc > state.best_s_acc,
    )


def _set_lr(state: TrainingState, steps: int) -> float:
    """Learning rate of decoder and heads at this step, after every group was given its share of it."""
    recipe = state.recipe
    warmup_steps = recipe.warmup_epochs * steps
    factor = lr_factor(step=state.steps_done, warmup_steps=warmup_steps, progress=_run_share(state, steps))
    set_lr(state.optimizer, recipe, factor)
    return recipe.lr * factor


def _scored(state: TrainingState, inputs: LoopInputs) -> Scores:
    """Scores after an epoch; the broken files that it met are kept with the state."""
    _note_broken(state, inputs.train_frames, inputs.world)
    scores = inputs.world.from_first(lambda: _validated(state, inputs))
    state.note_broken(inputs.val_frames.broken)
    return scores


def _box_weight(state: TrainingState, train_frames: TrainingFrames, steps: int) -> float:
    """At this moment of the run: a box that nothing else teaches has no masks to wait for."""
    weight = state.recipe.box_loss_weight or 0.0
    return warmed_up(weight, _run_share(state, steps)) if train_frames.has_parts else weight


class _Waiting:
    """Seconds until each batch was there, summed."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def passing(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            start_s = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - start_s
            if batch is None:
                return
            yield batch


class _Means:
    """Means of an epoch's losses. A term that begins within the epoch is averaged over its own steps."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps: dict[str, int] = {}

    def add(self, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._steps[name] = self._steps.get(name, 0) + 1

    @property
    def by_name(self) -> dict[str, float]:
        return {name: value / self._steps[name] for name, value in self._sums.items()}


def _note_broken(state: TrainingState, train_frames: TrainingFrames, world: World) -> None:
    """Put the broken files that the processes met together: each sees its own share of the frames.

    Raises:
        DataError: If together they are too many.
    """
    found = {entry.path: entry for share in world.from_all(train_frames.broken) for entry in share}
    refuse_too_many([entry.reason for entry in found.values()], len(train_frames), name="the training frames")
    state.note_broken(found.values())


def _epoch_batches(state: TrainingState, inputs: LoopInputs, steps: int) -> tuple[Iterator[Batch], torch.Generator]:
    """This process's share of the epoch's batches, and the source of the augmentation's random numbers."""
    recipe, world = state.recipe, inputs.world
    seed = recipe.seed * EPOCH_SEED_STRIDE + state.epochs_done + 1
    generator = torch.Generator().manual_seed(seed)
    order_N = torch.randperm(len(inputs.train_frames), generator=generator)
    if world.rank:
        generator.manual_seed(seed + world.rank * RANK_SEED_STRIDE)
    torch.manual_seed(seed + world.rank * RANK_SEED_STRIDE)  # dropout and stochastic depth draw from here
    batches = inputs.train_frames.batches(
        world.order_of(order_N, recipe.batch_size),
        world.share_of(recipe.batch_size),
        craft_share=_craft_share(state, steps),
        generator=generator,
    )
    return batches, generator


def _validated(state: TrainingState, inputs: LoopInputs) -> Scores:
    (scores,) = score_rules(
        state.evaluated,
        inputs.val_frames,
        (state.network.spec.box,),
        cost=inputs.cost,
        plan=inputs.plan,
        batch_size=state.recipe.batch_size,
    )
    return scores
