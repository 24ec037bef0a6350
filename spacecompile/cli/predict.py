"""`spacecompile predict`: a bundle and images to overlays and one JSON document."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from spacecompile.cli import console
from spacecompile.contract import PrecisionWish, Progress, Tta
from spacecompile.errors import AnswerError, FrameError, InterruptedRunError, OutputError
from spacecompile.files import PARTIAL_PREFIX, write_file

if TYPE_CHECKING:
    from PIL.Image import Image

    from spacecompile.data.images import NamedImage
    from spacecompile.data.submission import SubmissionWriter
    from spacecompile.runtime.frame_reader import FrameReader
    from spacecompile.runtime.session import Session

ANSWERS_NAME = "answers.json"
SOME_FAILED_EXIT_CODE = 2
"""Everything else was answered and written, but a caller that only looks at the exit code must see it."""

_JPEG_QUALITY = 92


def predict(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `build` made.", show_default=False)],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders, quoted patterns, or the root of a SPARK data set.", show_default=False
        ),
    ],
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the overlays and answers.json.")] = Path(
        "predictions"
    ),
    tta: Annotated[Tta, typer.Option(help="Test-time augmentation inside the graph.")] = "none",
    precision: Annotated[
        PrecisionWish | None,
        typer.Option(help="Of the graph; the most exact if not given, auto the fastest on this CPU."),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Name of the graph, instead of --tta and --precision.")] = None,
    backend: Annotated[str, typer.Option(help="onnxruntime, openvino, or auto: the fastest certified one.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; the usable physical cores if not given.")] = None,
    color: Annotated[Literal["rgb", "bgr", "gray"], typer.Option(help="What the images hold.")] = "rgb",
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Take the images of subfolders too.")] = False,
    overlays: Annotated[bool, typer.Option("--overlays/--no-overlays", help="Draw each answer on its image.")] = True,
    masks: Annotated[bool, typer.Option("--masks/--no-masks", help="Put the masks into the JSON, as COCO RLE.")] = True,
    submission: Annotated[
        bool, typer.Option("--submission", help="Write submission.zip for the benchmark's server too.")
    ] = False,
    submission_boxes: Annotated[
        Literal["xy", "rows"], typer.Option(help="Boxes there: xy as in 2024/2026 labels, rows as in 2022's.")
    ] = "xy",
    json: Annotated[str | None, typer.Option("--json", help="Write the answers to FILE too, or - for stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite earlier answers and overlays.")] = False,
) -> None:
    """Answer images: class, parts and box of the spacecraft in each.

    An image that can't be used is reported and left out, the others are answered; the exit code is then 2. Interrupted,
    it writes the answers that it has, marked as partial.
    """
    from spacecompile.data.images import find_images, overlay_names
    from spacecompile.data.submission import SUBMISSION_NAME, SubmissionWriter, check_names
    from spacecompile.runtime.frame_reader import FrameReader
    from spacecompile.runtime.session import load

    named = find_images(images, recursive=recursive)
    names = overlay_names(named) if overlays else None
    if submission:
        check_names([image.name for image in named])
    planned = [output / name for name in (ANSWERS_NAME, *([SUBMISSION_NAME] if submission else ()), *(names or ()))]
    _refuse_unwritable(output, planned, force=force)
    console.check_json(json, force=force, output=output)
    started_s = time.perf_counter()
    with (
        load(bundle, backend=backend, tta=tta, precision=precision, variant=variant, threads=threads) as session,
        _staging(output) as staging,
        ExitStack() as writers,
    ):
        writer = None
        if submission:
            writer = writers.enter_context(SubmissionWriter(staging / SUBMISSION_NAME, order=submission_boxes))
        reader = FrameReader(frame_size_px=session.spec.frame_size_px, color=color)
        overlay_paths = [staging / name for name in names] if names is not None else None
        with console.progress_bar() as progress:
            outcome = _answer_all(
                session, reader, named, overlay_paths=overlay_paths, masks=masks, submission=writer, progress=progress
            )
        writers.close()
        if outcome.partial and submission:  # the server would take what is missing for wrong answers
            (staging / SUBMISSION_NAME).unlink()
        document = _document(session, outcome, color=color)
        write_file(staging / ANSWERS_NAME, console.json_bytes(document))
        _put_in_place(staging, planned)
    if json is not None:
        console.emit_json(document, json)
    if not outcome.partial:
        _report(outcome, output=output, bundle=bundle, submission=submission, wall_s=time.perf_counter() - started_s)
    _end(outcome, len(named), output=output, has_document=json == "-")


def _document(session: Session, outcome: _Outcome, *, color: str) -> dict[str, Any]:
    return {
        "choice": asdict(session.choice) | {"color": color},
        "classes": list(session.classes),
        "frame_size_px": list(session.spec.frame_size_px),
        "answers": outcome.answers,
        "failed": outcome.failed,
        "partial": outcome.partial,
    }


def _end(outcome: _Outcome, num_images: int, *, output: Path, has_document: bool) -> None:
    """Say by the exit code what is missing.

    Raises:
        InterruptedRunError: If the run was interrupted.
        typer.Exit: If images were left out.
    """
    if outcome.partial:
        error = InterruptedRunError(
            f"stopped; {len(outcome.answers)} of {num_images} images are answered in {output}, marked as partial. Add "
            "--force to answer all of them again."
        )
        error.has_document = has_document
        raise error
    if outcome.failed:
        raise typer.Exit(SOME_FAILED_EXIT_CODE)


@dataclass(kw_only=True)
class _Outcome:
    """What a run over many images gave so far; `partial` when it was interrupted."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    partial: bool = False
    answering_s: float = 0.0


def _answer_all(
    session: Session,
    reader: FrameReader,
    images: Sequence[NamedImage],
    *,
    overlay_paths: Sequence[Path] | None,
    masks: bool,
    submission: SubmissionWriter | None,
    progress: Progress,
) -> _Outcome:
    outcome = _Outcome()
    try:
        for done, image in enumerate(images):
            progress("images", done, len(images))
            overlay_path = overlay_paths[done] if overlay_paths is not None else None
            _answer_one(outcome, session, reader, image, overlay_path=overlay_path, masks=masks, submission=submission)
        progress("images", len(images), len(images))
    except KeyboardInterrupt:
        outcome.partial = True
    return outcome


def _answer_one(
    outcome: _Outcome,
    session: Session,
    reader: FrameReader,
    image: NamedImage,
    *,
    overlay_path: Path | None,
    masks: bool,
    submission: SubmissionWriter | None,
) -> None:
    from spacecompile.runtime.overlay import draw_overlay

    try:
        frame_HWC = reader.read(image.path)
        started_s = time.perf_counter()
        answer = session(frame_HWC)
        outcome.answering_s += time.perf_counter() - started_s
    except (FrameError, AnswerError) as error:
        message = str(error).replace(str(image.path), image.name)
        outcome.failed.append({"image": image.name, "kind": type(error).__name__, "message": message})
        console.say(f"[yellow]left out[/] {escape(image.name)}: {escape(message)}")
        return
    record: dict[str, Any] = {"image": image.name}
    if overlay_path is not None:
        _write_overlay(overlay_path, draw_overlay(frame_HWC, answer))
        record["overlay"] = overlay_path.name
    if submission is not None:
        submission.add(image.name, class_name=answer.class_name, parts_HW=answer.parts_HW, box_xyxy=answer.box_xyxy)
    outcome.answers.append(record | answer.to_dict(masks=masks))


def _report(outcome: _Outcome, *, output: Path, bundle: Path, submission: bool, wall_s: float) -> None:
    answered, failed = len(outcome.answers), len(outcome.failed)
    per_answer = f", {1e3 * outcome.answering_s / answered:.0f} ms per answer" if answered else ""
    flagged = sum(bool(answer["flags"]) for answer in outcome.answers)
    console.say(
        f"{answered} answered ({flagged} flagged), {failed} left out, in {wall_s:.1f} s "
        f"({(answered + failed) / wall_s:.1f} images/s{per_answer})"
    )
    console.say(f"overlays and {ANSWERS_NAME} are in {escape(str(output))}")
    if submission:
        lacking = f"; [yellow]{failed} images are not in it[/]" if failed else ""
        console.say(f"submission.zip holds {answered} frames{lacking}")
    console.say(f"next: [bold]spacecompile bench {console.quoted(bundle)}[/]")


def _refuse_unwritable(output: Path, planned: list[Path], *, force: bool) -> None:
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


def _write_overlay(path: Path, overlay: Image) -> None:
    from io import BytesIO

    content = BytesIO()
    overlay.save(content, format="JPEG", quality=_JPEG_QUALITY)
    write_file(path, content.getvalue())
