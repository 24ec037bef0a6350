"""A section of the report as a step: what it requires, how it is measured, and what it gives to the results file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from spacecompile.benchmarks.run import Run
from spacecompile.errors import SpacecompileError, from_unexpected

_log = logging.getLogger(__name__)

NOT_ASKED = ""
"""What `Step.requires` answers where nobody asked for the section: it is left out without a word."""


class NotMeasuredError(Exception):
    """Raised while measuring: the section can't be there, for a reason that is no failure. Its text is the reason."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One section of the report.

    Attributes:
        name: Key of the section in `Run.sections` and of its failure in the results file.
        measure: Generator of the section as far as it is measured. The last value that it yields is the section, so
            that an interrupt or a failure keeps what is done.
        requires: Answers None where the section can be measured, else why it is not; see `NOT_ASKED`.
        fields: Gives the fields of `BenchResult` that hold the section; by default the one of the step's own name.
    """

    name: str
    measure: Callable[[Run], Iterator[Any]]
    requires: Callable[[Run], str | None] = lambda _: None
    fields: Callable[[Run], Mapping[str, Any]] | None = None

    def section(self, run: Run) -> Mapping[str, Any]:
        """Fields of `BenchResult` with what was measured."""
        return self.fields(run) if self.fields else {self.name: run.sections.get(self.name) or UNSET}


def take(run: Run, step: Step) -> None:
    """Measure one section into the run, and note why it is not there where it can't be.

    Raises:
        Exception: What stopped the step, if no latency was measured before: a run without any is worth nothing.
    """
    with step_of(run, step.name):
        reason = step.requires(run)
        if reason is None:
            try:
                for section in step.measure(run):
                    run.sections[step.name] = section
            except NotMeasuredError as error:
                reason = str(error)
        if reason:
            run.notes[step.name] = reason


def step_of(run: Run, name: str) -> AbstractContextManager[None]:
    """Guard of a part of a run: what fails before any latency was measured ends it, what fails later is noted."""
    return guarded(name, run.fail, ends=lambda _: not run.race.recording.app_ms)


@contextmanager
def guarded(
    name: str, keep: Callable[[str, SpacecompileError, bool], None], *, ends: Callable[[Exception], bool]
) -> Iterator[None]:
    """Run a part whose failure must not take with it what was measured before, not even a bug's.

    Args:
        name: Name of the part, for `keep` and the log.
        keep: Called with the name and the error of a part that fails, and whether it is one that no code foresaw.
        ends: Whether an error ends the whole run all the same.
    """
    try:
        yield
    except Exception as error:
        if ends(error):
            raise
        if isinstance(error, SpacecompileError):
            keep(name, error, False)
            return
        _log.error("the step %s stopped", name, exc_info=error)
        failure = from_unexpected(error)
        failure.__cause__ = error
        keep(name, failure, True)
