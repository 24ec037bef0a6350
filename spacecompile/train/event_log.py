"""Event files for TensorBoard: losses and learning rate per step, scores per epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spacecompile.train.loop import Callbacks, EpochReport, StepReport

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_FOLDER = "tensorboard"

SCORE_NAMES = ("s_cls", "s_det", "s_seg", "s_acc", "s_final")


@contextmanager
def event_log(folder: Path | None, steps_done: int) -> Iterator[Callable[[Callbacks], Callbacks]]:
    """What adds an event log to callbacks, as long as the block lasts.

    Args:
        folder: Folder of the event files; None to write none.
        steps_done: Steps of the run so far: later events of an interrupted run no longer count.
    """
    if folder is None:
        yield lambda callbacks: callbacks
        return
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - needs the `tensorboard` extra

    writer = SummaryWriter(str(folder), purge_step=steps_done + 1)
    try:
        yield lambda callbacks: _logged(callbacks, writer, steps_done)
    finally:
        writer.close()


def _logged(callbacks: Callbacks, writer: SummaryWriter, steps_before: int) -> Callbacks:
    steps_done = steps_before

    def on_step(report: StepReport) -> None:
        nonlocal steps_done
        steps_done += 1
        for name, value in report.losses.items():
            writer.add_scalar(f"loss/{name}", value, steps_done)
        writer.add_scalar("lr", report.lr, steps_done)
        writer.add_scalar("frames_per_s", report.frames_per_s, steps_done)
        callbacks.on_step(report)

    def on_epoch(report: EpochReport) -> None:
        for name in SCORE_NAMES:
            writer.add_scalar(f"validation/{name}", getattr(report.scores, name), steps_done)
        writer.flush()
        callbacks.on_epoch(report)

    return Callbacks(on_step=on_step, on_epoch=on_epoch)
