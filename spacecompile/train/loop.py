"""The epochs: steps, validation, what is kept after each.

Layout legend: N frames, C channels, H W input rows and columns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from spacecompile.contract import Cost
from spacecompile.errors import DivergedError, UsageError
from spacecompile.files import write_file
from spacecompile.metrics import Scores
from spacecompile.network.checkpoint import save_checkpoint
from spacecompile.network.preprocess import normalised
from spacecompile.train.augment import SETTINGS, augmented
from spacecompile.train.dataset import Batch, TrainingFrames, ValidationFrames
from spacecompile.train.device import DevicePlan
from spacecompile.train.evaluate import score_rules
from spacecompile.train.fused import TrainingForward
from spacecompile.train.losses import Losses, multi_task_losses
from spacecompile.train.optimise import lr_factor, set_lr
from spacecompile.train.state import TrainingState, save_state

EPOCH_SEED_STRIDE = 1_000_003
"""Prime, so that runs with neighbouring seeds share no epoch's order."""

LOSS_NAMES = ("loss", "dice", "bce", "cls")


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What a caller can show after a step.

    Attributes:
        epoch, epochs: From 1.
        step, steps: Within the epoch, from 1.
        losses: Means over the epoch so far: loss, dice, bce, cls.
        lr: Of decoder and heads.
        frames_per_s: Over the epoch so far.
        run_share: Part of the whole run that is done, 0 to 1.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    losses: dict[str, float]
    lr: float
    frames_per_s: float
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
    """

    train_frames: TrainingFrames
    val_frames: ValidationFrames
    plan: DevicePlan
    cost: Cost
    output: Path


def run_epochs(state: TrainingState, inputs: LoopInputs, callbacks: Callbacks) -> None:
    """Train until the recipe's epochs or its time are used up, saving after every epoch.

    Raises:
        DivergedError: If the training diverged; the files of the last good epoch are left as they are.
        OutputError: If a file can't be written.
    """
    recipe = state.recipe
    while state.epochs_done < recipe.epochs and not _is_over(state):
        report = _run_epoch(state, inputs, callbacks)
        state.epochs_done += 1
        state.history.append(json.loads(msgspec.json.encode(report)))
        if report.is_best:
            state.best_s_acc = report.scores.s_acc
            facts = {"epoch": report.epoch, "scores": json.loads(msgspec.json.encode(report.scores))}
            save_checkpoint(inputs.output / "best.pt", state.evaluated, training=facts)
        try:
            save_state(inputs.output / "last.pt", state)
        except BaseException:
            if state.epochs_done == 1:  # best weights without a state could be neither resumed nor begun again
                (inputs.output / "best.pt").unlink(missing_ok=True)
            raise
        write_file(inputs.output / "history.jsonl", "".join(json.dumps(line) + "\n" for line in state.history))
        callbacks.on_epoch(report)


def steps_per_epoch(state: TrainingState, train_frames: TrainingFrames) -> int:
    """Whole batches in one pass.

    Raises:
        UsageError: If the frames don't fill one batch.
    """
    steps = len(train_frames) // state.recipe.batch_size
    if not steps:
        raise UsageError(
            f"{len(train_frames)} training frames don't fill one batch of {state.recipe.batch_size}. "
            "Lower --batch-size or render more frames."
        )
    return steps


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


def _run_epoch(state: TrainingState, inputs: LoopInputs, callbacks: Callbacks) -> EpochReport:
    recipe, epoch = state.recipe, state.epochs_done + 1
    steps = steps_per_epoch(state, inputs.train_frames)
    generator = torch.Generator().manual_seed(recipe.seed * EPOCH_SEED_STRIDE + epoch)
    torch.manual_seed(recipe.seed * EPOCH_SEED_STRIDE + epoch)  # dropout and stochastic depth draw from here
    order_N = torch.randperm(len(inputs.train_frames), generator=generator)
    start_s, elapsed_before_s = time.perf_counter(), state.elapsed_s
    sums, report = dict.fromkeys(LOSS_NAMES, 0.0), None
    state.network.train()
    batches = inputs.train_frames.batches(
        order_N, recipe.batch_size, craft_share=_craft_share(state, steps), generator=generator
    )
    for step, batch in enumerate(batches, 1):
        factor = lr_factor(
            step=state.steps_done, warmup_steps=recipe.warmup_epochs * steps, progress=_run_share(state, steps)
        )
        set_lr(state.optimizer, recipe, factor)
        for name, value in _train_step(state, batch, inputs.plan, generator).items():
            sums[name] += value
        _check_finite(sums, state, inputs.output)
        spent_s = time.perf_counter() - start_s
        state.steps_done += 1
        state.elapsed_s = elapsed_before_s + spent_s
        report = StepReport(
            epoch=epoch,
            epochs=recipe.epochs,
            step=step,
            steps=steps,
            losses={name: value / step for name, value in sums.items()},
            lr=recipe.lr * factor,
            frames_per_s=step * recipe.batch_size / spent_s,
            run_share=_run_share(state, steps),
        )
        callbacks.on_step(report)
        if _is_over(state):
            break
    assert report is not None  # steps_per_epoch is at least 1
    (scores,) = score_rules(
        state.evaluated,
        inputs.val_frames,
        (state.network.spec.box,),
        cost=inputs.cost,
        plan=inputs.plan,
        batch_size=recipe.batch_size,
    )
    state.elapsed_s = elapsed_before_s + time.perf_counter() - start_s
    return EpochReport(
        epoch=epoch,
        epochs=recipe.epochs,
        losses=report.losses,
        scores=scores,
        lr=report.lr,
        frames_per_s=report.frames_per_s,
        elapsed_s=state.elapsed_s,
        is_best=scores.s_acc > state.best_s_acc,
    )


def _train_step(state: TrainingState, batch: Batch, plan: DevicePlan, generator: torch.Generator) -> dict[str, float]:
    """One optimizer step; the losses as plain numbers."""
    losses = _losses(state, batch, plan, generator)
    state.optimizer.zero_grad(set_to_none=True)
    scaled: Tensor = state.scaler.scale(losses.total)
    scaled.backward()  # type: ignore[no-untyped-call]
    state.scaler.unscale_(state.optimizer)
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), state.recipe.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.averaged:
        state.averaged.update(state.network, state.steps_done + 1)
    values = torch.stack([losses.total, losses.dice, losses.bce, losses.cls]).tolist()
    return dict(zip(LOSS_NAMES, values, strict=True))


def _losses(state: TrainingState, batch: Batch, plan: DevicePlan, generator: torch.Generator) -> Losses:
    spec, recipe = state.network.spec, state.recipe
    pixels_NCHW = batch.pixels_NCHW.to(plan.device).float()
    if recipe.augment != "none":
        pixels_NCHW = augmented(pixels_NCHW, SETTINGS[recipe.augment], generator)
    input_NCHW = normalised(pixels_NCHW[:, :3], spec.mean, spec.std)
    with plan.autocast():
        class_logits_NL, part_logits_NKhw = TrainingForward(state.network)(
            input_NCHW.contiguous(memory_format=torch.channels_last)
        )
    return multi_task_losses(
        class_logits_NL,
        part_logits_NKhw,
        class_N=batch.class_N.to(plan.device),
        coverage_NKHW=pixels_NCHW[:, 3:] / 255,
        recipe=recipe,
    )


def _check_finite(sums: dict[str, Any], state: TrainingState, output: Path) -> None:
    bad = [name for name, value in sums.items() if not -1e30 < value < 1e30]
    if bad:
        kept = f"{output / 'last.pt'} holds epoch {state.epochs_done}" if state.epochs_done else "no epoch was finished"
        raise DivergedError(
            f"training diverged in epoch {state.epochs_done + 1}: {bad[-1]} is not finite. Lower --lr (now "
            f"{state.recipe.lr:g}) or --clip (now {state.recipe.clip_norm:g}) and start anew; {kept}."
        )
