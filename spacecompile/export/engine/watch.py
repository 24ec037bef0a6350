"""Watching a long engine build: one percentage from TensorRT's nested phases, and Ctrl-C that ends it.

The build runs in a thread of its own. TensorRT calls the monitor from whichever thread it likes, while Python sees a
Ctrl-C in the main thread only, which therefore has to be in Python and not in the build.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from spacecompile.contract import Progress

_PERCENT = 100
_Result = TypeVar("_Result")


@dataclass(kw_only=True)
class _Phase:
    parent: str | None
    num_steps: int
    steps_done: int = 0


@dataclass(kw_only=True)
class BuildWatch:
    """What a build reports to, and what it asks whether to go on.

    Attributes:
        cancelled: Event that ends the build at its next step.
        percents: Whole percents of the build that are done, rising; None ends them.
    """

    cancelled: Event = field(default_factory=Event)
    percents: SimpleQueue[int | None] = field(default_factory=SimpleQueue)
    _phases: dict[str, _Phase] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _last_percent: int = 0

    def start(self, name: str, parent: str | None, num_steps: int) -> None:
        """Note that a phase began, inside a step of another one or, without a parent, on its own."""
        with self._lock:
            self._phases[name] = _Phase(parent=parent, num_steps=max(num_steps, 1))

    def step(self, name: str, step: int) -> bool:
        """Note a finished step, counted from 0.

        Returns:
            Whether to go on.
        """
        with self._lock:
            if phase := self._phases.get(name):
                phase.steps_done = step + 1
                self._report()
        return not self.cancelled.is_set()

    def finish(self, name: str) -> None:
        """Note the end of a phase."""
        with self._lock:
            self._phases.pop(name, None)

    def _report(self) -> None:
        """Phases may overlap or come again, so the share that is done can fall; what is shown never does."""
        done = max((self._share(name) for name, phase in self._phases.items() if phase.parent is None), default=0.0)
        percent = int(_PERCENT * done)
        if percent > self._last_percent:
            self._last_percent = percent
            self.percents.put(percent)

    def _share(self, name: str, above: frozenset[str] = frozenset()) -> float:
        """Done of a phase, its inner ones included; a phase inside itself counts once."""
        phase, inside = self._phases[name], above | {name}
        children = [child for child, other in self._phases.items() if other.parent == name and child not in inside]
        inner = sum(self._share(child, inside) for child in children)
        return min((phase.steps_done + min(inner, 1.0)) / phase.num_steps, 1.0)


def monitor_of(trt: Any, watch: BuildWatch) -> Any:
    """TensorRT's progress monitor that reports to a watch."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module has no types
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.start(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            watch.finish(phase_name)

    return Monitor()


def run_watched(work: Callable[[], _Result], watch: BuildWatch, *, progress: Progress, step: str) -> _Result:
    """Run a build in a thread of its own and hand on what it reports.

    An interrupt here, or any error in `progress`, cancels the build, waits until it has ended, and is raised.

    Args:
        work: Function that builds and reports to `watch`.
        watch: Watch that the build reports to.
        progress: Callback for progress.
        step: Name of the step for `progress`.
    """
    outcome: Future[_Result] = Future()
    thread = Thread(target=_resolve, args=(outcome, work, watch), name=step)
    progress(step, 0, _PERCENT)
    thread.start()
    try:
        while (percent := watch.percents.get()) is not None:
            progress(step, percent, _PERCENT)
    except BaseException:
        watch.cancelled.set()
        raise
    finally:
        thread.join()
    result = outcome.result()
    progress(step, _PERCENT, _PERCENT)
    return result


def _resolve(outcome: Future[_Result], work: Callable[[], _Result], watch: BuildWatch) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits
        outcome.set_exception(error)
    finally:
        watch.percents.put(None)
