"""`--json` that may name a folder, where the file is named after the run."""

from __future__ import annotations

from pathlib import Path

from spacecompile.cli import console


def results_folder(json: str | None) -> Path | None:
    """The folder that `--json` names, if it names one."""
    return None if json is None or json == "-" or not Path(json).is_dir() else Path(json)


def check_results(json: str | None, *, force: bool, bundle: Path) -> None:
    """Refuse a `--json` before the run whose result it shall hold.

    Args:
        json: File or folder as the user named it, `-` for stdout, None for no file.
        force: Whether a file that is there may be replaced.
        bundle: Folder of the bundle that the run reads; a further file would spoil it.

    Raises:
        OutputError: If nothing can be written at that place.
    """
    folder = results_folder(json)
    if folder is None:
        console.check_json(json, force=force, bundle=bundle)
    else:  # the file's name is known after the run; that one can be written is all that can be checked
        console.check_json(str(folder / "results.json"), force=True, bundle=bundle)
