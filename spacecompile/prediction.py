"""Images in, answers out: overlays, one JSON document and the benchmark's submission, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import Progress, no_progress
from spacecompile.data.images import NamedImage, find_images, overlay_names
from spacecompile.data.submission import SUBMISSION_NAME, SubmissionWriter, check_names
from spacecompile.errors import AnswerError, FrameError, OutputError
from spacecompile.files import PARTIAL_PREFIX, write_file
from spacecompile.record import json_bytes
from spacecompile.runtime.frame_reader import FrameReader
from spacecompile.runtime.overlay import draw_overlay
from spacecompile.runtime.session import Session

ANSWERS_NAME = "answers.json"

_JPEG_QUALITY = 92


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What `predict` reads and writes.

    Attributes:
        color: Channels that the images hold.
        recursive: Whether images in subfolders are taken too.
        overlays: Whether each answer is drawn on its image.
        masks: Whether the document holds the masks, as COCO run-length encoding.
        submission: Whether `submission.zip` for the benchmark's server is written too.
        submission_boxes: Order of a box there: `xy` as in the labels of 2024 and 2026, `rows` as in those of 2022.
        force: Whether earlier answers and overlays are overwritten.
    """

    color: Literal["rgb", "bgr", "gray"] = "rgb"
    recursive: bool = False
    overlays: bool = True
    masks: bool = True
    submission: bool = False
    submission_boxes: Literal["xy", "rows"] = "xy"
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class PredictPlan:
    """Images that were found, and the files that answering them will write.

    Attributes:
        images: Images in the order in which they are answered.
        output: Folder for everything that is written.
        paths: Every file to write, `answers.json` first and the overlays last, in the order of the images.
        options: What to read and write.
    """

    images: tuple[NamedImage, ...]
    output: Path
    paths: tuple[Path, ...]
    options: PredictOptions


@dataclass(kw_only=True)
class Prediction:
    """Answers to many images.

    Attributes:
        document: Content of `answers.json`: the choice of variant and engine, class names, frame size, answers, images
            that were left out, and whether the run was interrupted.
        answers: One record per answered image.
        failed: One record per image that can't be used: its name, the kind of error and the sentence.
        partial: Whether the run was interrupted before every image was answered.
        answering_s: Seconds inside the session.
    """

    document: dict[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    partial: bool = False
    answering_s: float = 0.0


def predict(
    session: Session,
    images: Sequence[str],
    *,
    output: Path | str,
    options: PredictOptions | None = None,
    progress: Progress = no_progress,
) -> Prediction:
    """Answer images, and write overlays, `answers.json` and, if asked for, the submission file.

    An image that can't be used is left out and named in the result. After Ctrl-C the answers so far are written, marked
    as partial.

    Example:
        with spacecompile.load("net.spacepkg") as session:
            spacecompile.predict(session, ["frames/"], output="out")

    Args:
        session: Session that `load` opened.
        images: Image files, folders, patterns, or the root of a SPARK data set.
        output: Folder for what is written.
        options: What to read and write; the defaults if not given.
        progress: Callback for progress.

    Raises:
        FrameError: If there is no image.
        OutputError: If something can't be written, or is there already and `options.force` is off.
    """
    plan = plan_predictions(images, output=Path(output), options=options or PredictOptions())
    return run_predictions(session, plan, progress=progress)


def plan_predictions(images: Sequence[str], *, output: Path, options: PredictOptions) -> PredictPlan:
    """Find the images, and refuse before any work what could not be written after it; nothing is made yet.

    Args:
        images: Image files, folders, patterns, or the root of a SPARK data set.
        output: Folder for what is written.
        options: What to read and write.

    Raises:
        FrameError: If there is no image.
        OutputError: If the folder can't be made or written to, or a file is there already.
    """
    named = tuple(find_images(list(images), recursive=options.recursive))
    names = [ANSWERS_NAME]
    if options.submission:
        check_names([image.name for image in named])
        names.append(SUBMISSION_NAME)
    if options.overlays:
        names += overlay_names(named)
    paths = tuple(output / name for name in names)
    _refuse_unwritable(output, paths, force=options.force)
    return PredictPlan(images=named, output=output, paths=paths, options=options)


def run_predictions(
    session: Session,
    plan: PredictPlan,
    *,
    progress: Progress = no_progress,
    on_left_out: Callable[[str, str], None] = lambda _name, _message: None,
) -> Prediction:
    """Answer the images of a plan and write its files.

    Args:
        session: Session that `load` opened.
        plan: Images and files.
        progress: Callback for progress.
        on_left_out: Called with the name of an image that can't be used, and why.

    Raises:
        OutputError: If something can't be written.
    """
    options = plan.options
    reader = FrameReader(frame_size_px=session.spec.frame_size_px, color=options.color)
    found = Prediction()
    with _staging(plan.output) as staging:
        zipped = staging / SUBMISSION_NAME
        submitting = SubmissionWriter(zipped, order=options.submission_boxes) if options.submission else nullcontext()
        with submitting as writer:
            try:
                for done, image in enumerate(plan.images):
                    progress("images", done, len(plan.images))
                    overlay_path = staging / plan.paths[done - len(plan.images)].name if options.overlays else None
                    _answer(
                        found,
                        session,
                        reader.read,
                        image,
                        overlay_path,
                        writer,
                        masks=options.masks,
                        on_left_out=on_left_out,
                    )
                progress("images", len(plan.images), len(plan.images))
            except KeyboardInterrupt:
                found.partial = True
        if found.partial and options.submission:  # the server would take what is missing for wrong answers
            zipped.unlink()
        found.document = {
            "choice": asdict(session.choice) | {"color": options.color},
            "classes": list(session.classes),
            "frame_size_px": list(session.spec.frame_size_px),
            "answers": found.answers,
            "failed": found.failed,
            "partial": found.partial,
        }
        write_file(staging / ANSWERS_NAME, json_bytes(found.document))
        _put_in_place(staging, plan.paths)
    return found


def _answer(
    found: Prediction,
    session: Session,
    read: Callable[[Path], NDArray[np.uint8]],
    image: NamedImage,
    overlay_path: Path | None,
    writer: SubmissionWriter | None,
    *,
    masks: bool,
    on_left_out: Callable[[str, str], None],
) -> None:
    """Answer one image into the prediction; one that can't be used is named there."""
    try:
        frame_HWC = read(image.path)
        started_s = time.perf_counter()
        answer = session(frame_HWC)
        found.answering_s += time.perf_counter() - started_s
    except (FrameError, AnswerError) as error:
        message = str(error).replace(str(image.path), image.name)
        found.failed.append({"image": image.name, "kind": type(error).__name__, "message": message})
        on_left_out(image.name, message)
        return
    record: dict[str, Any] = {"image": image.name}
    if overlay_path is not None:
        content = BytesIO()
        draw_overlay(frame_HWC, answer).save(content, format="JPEG", quality=_JPEG_QUALITY)
        write_file(overlay_path, content.getvalue())
        record["overlay"] = overlay_path.name
    if writer is not None:
        writer.add(image.name, class_name=answer.class_name, parts_HW=answer.parts_HW, box_xyxy=answer.box_xyxy)
    found.answers.append(record | answer.to_dict(masks=masks))


def _refuse_unwritable(output: Path, planned: Sequence[Path], *, force: bool) -> None:
    """Refuse before any work what could not be written after it; nothing is made yet.

    Raises:
        OutputError: If the folder can't be made or written to, or a planned file exists.
    """
    in_the_way = next((path for path in planned if path.is_dir()), None)
    if in_the_way:
        raise OutputError(f"{in_the_way} is a folder. Choose another folder with --output.")
    existing = next((path for path in planned if path.exists()), None)
    if existing and not force:
        raise OutputError(f"{existing} exists already. Choose another folder with --output, or add --force.")
    nearest = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        kind = "not writable" if nearest.is_dir() else "a file"
        raise OutputError(f"can't write to folder {output}: {nearest} is {kind}. Choose another with --output.")


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A folder inside the output for what is not complete yet; gone at the end, whatever happens."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=PARTIAL_PREFIX, dir=output))
    except OSError as error:
        raise OutputError(f"can't make folder {output}: {error.strerror}. Choose another with --output.") from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(staging: Path, planned: Sequence[Path]) -> None:
    """Move the overlays, then the answers that name them; a planned overlay that was not drawn is an earlier run's."""
    try:
        for path in reversed(planned):
            if (staging / path.name).exists():
                (staging / path.name).replace(path.resolve())
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"can't write {path}: {error.strerror}. Check the folder.") from error
