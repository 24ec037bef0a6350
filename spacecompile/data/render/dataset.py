"""A whole split on disk: parallel, resumable, the same bytes for any number of workers."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from spacecompile.contract import Progress, no_progress
from spacecompile.data.interrupts import interrupts_held
from spacecompile.data.labels import BoxXYXY
from spacecompile.data.render.folder import claim_split, finished_boxes, label, remove_stopped_work
from spacecompile.data.render.frame import render_frame
from spacecompile.data.render.settings import RenderSettings
from spacecompile.data.spark import write_image, write_mask, write_split_csv
from spacecompile.errors import OutputError, UsageError

_PROGRESS_STEP: Final = "render"
_FRAMES_IN_FLIGHT_PER_WORKER: Final = 3


@dataclass(frozen=True, kw_only=True)
class RenderSummary:
    """What a run did.

    Attributes:
        output: Data folder.
        split: Name of the split.
        frames: Number of frames in the split now.
        rendered: Number of frames that this run made; the others were there.
        seconds: Wall time of the run.
        frames_per_second: Rate of the frames that this run made; 0 when there were none.
        workers: Number of processes.
        csv_path: Path of the label table.
    """

    output: str
    split: str
    frames: int
    rendered: int
    seconds: float
    frames_per_second: float
    workers: int
    csv_path: str


def render_dataset(
    output: Path | str,
    settings: RenderSettings,
    *,
    workers: int = 1,
    progress: Progress = no_progress,
    force: bool = False,
) -> RenderSummary:
    """Renders a split, or what is missing of it, and writes its csv last.

    Args:
        output: Folder of the data, made if it isn't there.
        settings: Settings of the split.
        workers: Number of processes; 1 renders in this one.
        progress: Callback for progress.
        force: Whether to remove the split that is there first, whatever its settings.

    Raises:
        OutputError: If the folder can't be written, or holds a split of other settings or more frames without `force`.
        UsageError: If `workers` is below 1.
        KeyboardInterrupt: After Ctrl-C; workers are stopped and the folder is left resumable.
    """
    if workers < 1:
        raise UsageError(f"workers is {workers}. Use at least 1.")
    root = Path(output)
    started = time.perf_counter()
    claim_split(root, settings, force=force)
    boxes = finished_boxes(root, settings)
    missing = [index for index in range(settings.num_frames) if index not in boxes]
    workers = max(min(workers, len(missing)), 1)
    progress(_PROGRESS_STEP, len(boxes), settings.num_frames)
    with closing(_rendered(root, settings, missing, workers)) as rendered:
        for index, box_xyxy in rendered:
            boxes[index] = box_xyxy
            progress(_PROGRESS_STEP, len(boxes), settings.num_frames)
    csv_path = write_split_csv(root, settings.split, (label(root, settings, i, boxes[i]) for i in sorted(boxes)))
    seconds = time.perf_counter() - started
    return RenderSummary(
        output=str(root),
        split=settings.split,
        frames=settings.num_frames,
        rendered=len(missing),
        seconds=seconds,
        frames_per_second=len(missing) / seconds,
        workers=workers,
        csv_path=str(csv_path),
    )


def _render_to_disk(root: Path, settings: RenderSettings, index: int) -> tuple[int, BoxXYXY]:
    frame = render_frame(settings, index)
    paths = label(root, settings, index, frame.box_xyxy)
    write_image(paths.image_path, frame.frame_HWC, jpeg_quality=settings.jpeg_quality)
    write_mask(paths.required_mask_path, frame.parts_HW, note=json.dumps({"box_xyxy": frame.box_xyxy}))
    return index, frame.box_xyxy


def _rendered(
    root: Path, settings: RenderSettings, indices: list[int], workers: int
) -> Generator[tuple[int, BoxXYXY], None, None]:
    """Renders frames and yields each as it is done, in any order."""
    if workers == 1:
        for index in indices:
            yield _render_to_disk(root, settings, index)
        return
    # spawn: Embree and BLAS threads don't survive a fork.
    context = multiprocessing.get_context("spawn")
    strangers = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_quiet_worker)
    waiting = iter(indices)
    running: set[Future[tuple[int, BoxXYXY]]] = set()
    try:
        while True:
            with interrupts_held():
                for index in islice(waiting, _FRAMES_IN_FLIGHT_PER_WORKER * workers - len(running)):
                    running.add(executor.submit(_render_to_disk, root, settings, index))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise OutputError(
            "A render worker died (killed, or out of memory). Run the same command again with fewer --workers."
        ) from error
    except BaseException:
        # Every file is renamed into place whole, so workers can be stopped anywhere; waiting for them would take
        # seconds while they still start.
        for worker in set(multiprocessing.active_children()) - strangers:
            worker.terminate()
        executor.shutdown(wait=True, cancel_futures=True)
        remove_stopped_work(root, settings)
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _quiet_worker() -> None:
    """Leaves Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
