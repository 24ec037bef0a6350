"""The folder of a run: whether it is free."""

from __future__ import annotations

import json
from pathlib import Path

from spacecompile.errors import CheckpointError
from spacecompile.files import PARTIAL_PREFIX
from spacecompile.network.checkpoint import load_checkpoint
from spacecompile.train.event_log import LOG_FOLDER


def holds_something(output: Path) -> bool:
    """Whether a folder has anything beyond what a run leaves that was stopped before there was a state to resume."""
    names = {path.name for path in output.iterdir() if not path.name.startswith(PARTIAL_PREFIX)}
    if "train.json" not in names or names - {"train.json", "best.pt", LOG_FOLDER}:
        return bool(names)
    try:
        facts = json.loads((output / "train.json").read_text(encoding="utf-8"))
        # A kill between the first epoch's weights and its state leaves weights that can't be resumed. Later weights
        # whose state somebody removed are worth keeping.
        epoch = load_checkpoint(output / "best.pt").training.get("epoch") if "best.pt" in names else 1
    except (OSError, ValueError, CheckpointError):
        return True
    return epoch != 1 or not isinstance(facts, dict) or facts.get("finished") is not False
