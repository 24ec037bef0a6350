"""The steps of a build, timed and reported as they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from spacecompile.contract import Cost, PassReport, Variant
from spacecompile.export.parity.verdict import ParityReport
from spacecompile.export.precision.files import PrecisionReport
from spacecompile.record import Record


class BuildStep(Record):
    """One finished step.

    Attributes:
        name: Name of the step.
        seconds: Duration of the step.
        bytes: Size of what the step read or wrote; None for a step without a telling size.
        note: Outcome in a few words; may be empty.
    """

    name: str
    seconds: float
    bytes: int | None = None
    note: str = ""


class BuildReport(Record):
    """What a build made.

    Attributes:
        path: Folder of the bundle.
        bytes: Size of all files of the bundle.
        seconds: Duration of the whole build.
        steps: Finished steps in order.
        variants: Variants in the bundle.
        rewrites: One report per pass.
        cost_source, cost: Cost of the network before and after the rewrites.
        precision: Measurements behind fp16 and int8, and the types that each file really holds.
        parity: Parity certificate of every file.
        medians_ms: Median time per frame in the parity check, by `<variant>, <backend>`: an impression, no benchmark.
        licences: Licence notes for the user.
    """

    path: str
    bytes: int
    seconds: float
    steps: tuple[BuildStep, ...]
    variants: tuple[Variant, ...]
    rewrites: tuple[PassReport, ...]
    cost_source: Cost
    cost: Cost
    precision: PrecisionReport
    parity: ParityReport
    medians_ms: dict[str, float]
    licences: tuple[str, ...]


def no_steps(step: BuildStep) -> None:
    """Ignore finished steps: the default of `run_build`."""


@dataclass(kw_only=True)
class RunningStep:
    """What a step fills in while it runs; see `BuildStep`."""

    bytes: int | None = None
    note: str = ""


@dataclass(kw_only=True)
class Clock:
    """Times the steps of one build.

    Attributes:
        on_step: Callback for each finished step.
        start_s: Reading of the clock when the build began.
        steps: Steps finished so far.
    """

    on_step: Callable[[BuildStep], None]
    start_s: float = field(default_factory=time.perf_counter)
    steps: list[BuildStep] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[RunningStep]:
        """Time one step; one that fails is not reported."""
        running, start_s = RunningStep(), time.perf_counter()
        yield running
        seconds = time.perf_counter() - start_s
        finished = BuildStep(name=name, seconds=seconds, bytes=running.bytes, note=running.note)
        self.steps.append(finished)
        self.on_step(finished)

    def elapsed_s(self) -> float:
        """Seconds since the build began."""
        return time.perf_counter() - self.start_s
