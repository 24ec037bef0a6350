"""The training state on disk: `last.pt`, everything that `--resume` needs, without a single pickled object."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from spacecompile.contract import ModelSpec
from spacecompile.data.broken import BrokenFile
from spacecompile.errors import CheckpointError, first_line_of
from spacecompile.files import flush_to_disk, replacing
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.train.device import DevicePlan
from spacecompile.train.freeze import freeze
from spacecompile.train.optimise import AveragedWeights, optimizer_of
from spacecompile.train.recipe import Recipe

STATE_FORMAT = "spacecompile-training-3"


@dataclass(kw_only=True)
class TrainingState:
    """A run between two epochs. Random numbers need no state: every epoch seeds its own.

    Attributes:
        recipe: Recipe of the whole run.
        network: Being trained.
        optimizer: Optimizer of the network.
        scaler: Scaler of float16 gradients; disabled otherwise.
        averaged: Averaged weights, if the recipe wants them.
        epochs_done, steps_done: So far.
        elapsed_s: Time spent in training so far, over all resumptions.
        best_s_acc: Highest validation score so far, -1 before the first.
        history: One JSON object per epoch.
        command: Command that the run was started with.
        limit_frames, val_frames: Limits of the job that started the run; 0 for all.
        teacher, teacher_sha256: Path and content of the teacher's checkpoint; empty without.
        start: What the encoder began with, in a sentence; empty for random weights and for those of `init`.
        rows_sha256: SHA-256 of the labels of both splits, see `data.labels.Split`; empty where an earlier version did
            not say.
        broken_files: Frames that could not be used, as far as they were met: what is wrong, by path.
    """

    recipe: Recipe
    network: MultiTaskNetwork
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    averaged: AveragedWeights | None
    epochs_done: int = 0
    steps_done: int = 0
    elapsed_s: float = 0.0
    best_s_acc: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)
    command: str = ""
    limit_frames: int = 0
    val_frames: int = 0
    teacher: str = ""
    teacher_sha256: str = ""
    start: str = ""
    rows_sha256: str = ""
    broken_files: dict[str, str] = field(default_factory=dict)

    def note_broken(self, found: Iterable[BrokenFile]) -> None:
        """Keep broken files that were met, so that a resumed run still knows them."""
        self.broken_files.update({str(entry.path): entry.reason for entry in found})

    @property
    def evaluated(self) -> MultiTaskNetwork:
        """The weights that are validated and kept."""
        return self.averaged.network if self.averaged else self.network


def new_state(network: MultiTaskNetwork, recipe: Recipe, plan: DevicePlan) -> TrainingState:
    """A run that has not begun. The network is moved to the plan's device."""
    network = network.to(plan.device).to(memory_format=torch.channels_last)
    freeze(network, recipe)
    return TrainingState(
        recipe=recipe,
        network=network,
        optimizer=optimizer_of(network, recipe),
        scaler=torch.amp.GradScaler(plan.device.type, enabled=plan.scales_loss),
        averaged=AveragedWeights(network, recipe.ema) if recipe.ema else None,
    )


def save_state(path: Path, state: TrainingState) -> None:
    """Write `last.pt` atomically.

    Raises:
        OutputError: If the file can't be written.
    """
    content = {
        "format": STATE_FORMAT,
        "recipe": json.loads(msgspec.json.encode(state.recipe)),
        "spec": json.loads(msgspec.json.encode(state.network.spec)),
        "network": state.network.state_dict(),
        "averaged": state.averaged.network.state_dict() if state.averaged else None,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        **{name: getattr(state, name) for name in _PLAIN},
    }
    with replacing(path, errors=(RuntimeError,)) as partial_path, partial_path.open("wb") as stream:
        torch.save(content, stream)
        flush_to_disk(stream)


def is_training_state(path: Path) -> bool:
    """Whether a file is a `last.pt`, of whatever version."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        return False  # whoever reads it as a checkpoint says what it is
    return isinstance(content, dict) and str(content.get("format")).startswith(STATE_FORMAT.rsplit("-", 1)[0])


_PLAIN = (
    *("epochs_done", "steps_done", "elapsed_s", "best_s_acc", "history"),
    *("command", "limit_frames", "val_frames", "start"),
    *("teacher", "teacher_sha256", "rows_sha256", "broken_files"),
)


def load_state(path: Path, plan: DevicePlan) -> TrainingState:
    """Read `last.pt` back.

    Raises:
        CheckpointError: If it is missing, truncated or foreign.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist, so there is nothing to resume. Start without --resume.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != STATE_FORMAT:
            raise CheckpointError(
                f"{path} has format {content['format']!r}, expected {STATE_FORMAT!r}: another version began this run. "
                "Start a new one from its best.pt, with --init."
            )
        network = MultiTaskNetwork(msgspec.convert(content["spec"], ModelSpec))
        state = new_state(network, msgspec.convert(content["recipe"], Recipe), plan)
        state.network.load_state_dict(content["network"])
        if state.averaged:
            state.averaged.network.load_state_dict(content["averaged"])
        state.optimizer.load_state_dict(content["optimizer"])
        state.scaler.load_state_dict(content["scaler"])
        for name in _PLAIN:
            setattr(state, name, content[name])
    except (
        *(RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError),
        *(IndexError, AttributeError, AssertionError, pickle.UnpicklingError),
    ) as error:
        reason = first_line_of(error)
        raise CheckpointError(
            f"{path} is truncated or not a training state: {reason}. Start without --resume."
        ) from error
    return state
