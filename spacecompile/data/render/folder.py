"""A split's folder: what its files are called, whose it is, which frames are finished."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from spacecompile.contract import SPARK_CLASSES
from spacecompile.data.labels import BoxXYXY, LabelledFrame, image_path, mask_path, num_rows
from spacecompile.data.render.scene import class_name_of
from spacecompile.data.render.settings import RenderSettings
from spacecompile.data.spark import read_jpeg_note
from spacecompile.errors import OutputError
from spacecompile.files import PARTIAL_PREFIX, write_file


def facts_path(root: Path, split: str) -> Path:
    """The small file beside the csv that says how a split was made."""
    return root / f"render-{split}.json"


def _frame_names(settings: RenderSettings, index: int) -> tuple[str, str]:
    name = f"{settings.split}{index:06d}"
    return f"{name}_img.jpg", f"{name}_layer.jpg"


def label(root: Path, settings: RenderSettings, index: int, box_xyxy: BoxXYXY) -> LabelledFrame:
    """The row of a frame; class and file names follow from settings and index alone."""
    class_name = class_name_of(settings, index)
    image_name, mask_name = _frame_names(settings, index)
    return LabelledFrame(
        image_path=image_path(root, class_name, settings.split, image_name),
        mask_path=mask_path(root, class_name, settings.split, mask_name),
        class_name=class_name,
        box_xyxy=box_xyxy,
    )


def claim_split(root: Path, settings: RenderSettings, *, force: bool) -> None:
    """Marks the folder as ours before the first frame, or refuses it; `force` removes the split that is there.

    Raises:
        OutputError: If the split is someone else's, has other settings or more frames, and `force` is off.
    """
    path = facts_path(root, settings.split)
    wanted = settings.pixel_facts()
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root} is a file. Choose a folder for --output.")
    found = _found_facts(path, force=force)
    if force:
        _remove_split(root, settings)
    elif found == wanted:
        _refuse_fewer(root, settings)
        return
    else:
        _refuse_foreign(root, settings, found)
    write_file(path, (json.dumps(wanted, indent=2) + "\n").encode())


def _found_facts(path: Path, *, force: bool) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        if force:
            return None
        raise OutputError(f"{path} can't be read ({error}). Choose another --output or use --force.") from error


def _refuse_foreign(root: Path, settings: RenderSettings, found: object) -> None:
    if found is not None:
        raise OutputError(
            f"{root} holds a {settings.split} split made with other settings "
            f"({_differences(found, settings.pixel_facts())}). "
            "Use the same settings to resume it, another --output, or --force to replace it."
        )
    if (root / f"{settings.split}.csv").exists() or next(_split_files(root, settings), None) is not None:
        raise OutputError(
            f"{root} already holds {settings.split} frames without {facts_path(root, settings.split).name}, so how "
            "they were made is unknown. Choose another --output, or replace that split with --force."
        )


def _refuse_fewer(root: Path, settings: RenderSettings) -> None:
    """A shorter label table would silently drop frames that are there."""
    num_frames = num_rows(root, settings.split)
    if num_frames > settings.num_frames:
        raise OutputError(
            f"{root} holds {num_frames} {settings.split} frames; --frames {settings.num_frames} would drop some. "
            "Choose another --output, or --force to render the split again."
        )


def _split_files(root: Path, settings: RenderSettings, *, prefix: str = "") -> Iterator[Path]:
    """Frames and masks of the split with names that render itself gives; nothing else."""
    digits = "[0-9]" * 6
    for class_name in SPARK_CLASSES:
        for folder, suffix in (("images", "img"), ("mask", "layer")):
            split_folder = root / folder / class_name / settings.split
            yield from split_folder.glob(f"{prefix}{settings.split}{digits}_{suffix}.jpg")


def _differences(found: object, wanted: dict[str, int | str]) -> str:
    known = found if isinstance(found, dict) else {}
    return (
        ", ".join(
            f"{name} {known.get(name)!r} instead of {value!r}"
            for name, value in wanted.items()
            if known.get(name) != value
        )
        or "unknown fields"
    )


def _remove_split(root: Path, settings: RenderSettings) -> None:
    try:
        for path in [*_split_files(root, settings)]:
            path.unlink()
        (root / f"{settings.split}.csv").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{root} can't be cleared ({error.strerror}). Choose another --output.") from error


def remove_stopped_work(root: Path, settings: RenderSettings) -> None:
    """Removes what stopped workers left half-written in the split's folders."""
    for path in [*_split_files(root, settings, prefix=f"{PARTIAL_PREFIX}*-")]:
        path.unlink(missing_ok=True)


def finished_boxes(root: Path, settings: RenderSettings) -> dict[int, BoxXYXY]:
    """Box of every frame that is already whole on disk, by index."""
    boxes = {index: _finished_box(root, settings, index) for index in range(settings.num_frames)}
    return {index: box_xyxy for index, box_xyxy in boxes.items() if box_xyxy is not None}


def _finished_box(root: Path, settings: RenderSettings, index: int) -> BoxXYXY | None:
    """Box of a frame that is already whole on disk; the mask carries it as a JPEG comment."""
    paths = label(root, settings, index, (0, 0, 0, 0))
    size_px = (settings.frame_size_px, settings.frame_size_px)
    if read_jpeg_note(paths.image_path, size_px) is None:
        return None
    note = read_jpeg_note(paths.required_mask_path, size_px)
    try:
        x_min, y_min, x_max, y_max = (int(value) for value in json.loads(note or "")["box_xyxy"])
    except (ValueError, KeyError, TypeError):
        return None
    return x_min, y_min, x_max, y_max
