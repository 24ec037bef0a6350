"""A folder with a plan and what is to be known of it, which appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from spacecompile.errors import OutputError
from spacecompile.export.bundle.writer import bundle_writer
from spacecompile.export.engine.build_plan import EngineBuild
from spacecompile.record import json_from_record

PLAN_NAME: Final = "model.plan"
FACTS_NAME: Final = "model.plan.json"
LAYERS_NAME: Final = "layers.json"


def check_engine_folder(folder: Path, *, force: bool) -> None:
    """Refuse a folder before anything is built.

    Args:
        folder: Folder of one plan.
        force: Whether a plan that is there may be replaced.

    Raises:
        OutputError: If something else is in the way, or it can't be written.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder} exists and is not a folder. Choose another --output.")
    if folder.exists() and not force:
        raise OutputError(f"{folder} exists. Choose another --output, or add --force to replace it.")
    if folder.exists() and {path.name for path in folder.iterdir()} - {PLAN_NAME, FACTS_NAME, LAYERS_NAME}:
        raise OutputError(
            f"{folder} holds files that are no plan's. --force only replaces plans; choose another --output."
        )
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not parent.is_dir():
        raise OutputError(f"can't write {folder}: {parent} is not a folder. Choose another --output.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"can't write {folder}: {parent} is read-only. Choose another --output.")


def write_engine(folder: Path, engine: EngineBuild) -> None:
    """Write the plan, its facts and its layers.

    Raises:
        OutputError: If they can't be written; what was there is still there.
    """
    with bundle_writer(folder) as writer:
        writer.write(PLAN_NAME, engine.plan)
        writer.write(FACTS_NAME, json_from_record(engine.facts))
        writer.write(LAYERS_NAME, json_from_record(engine.layers))
