"""A benchmark that is under way: what is known so far, valid at any moment."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from spacecompile.benchmarks.contest import Contest
from spacecompile.benchmarks.frames import FrameStream
from spacecompile.benchmarks.further import Further
from spacecompile.benchmarks.machine import MachineWatch
from spacecompile.benchmarks.records import GraphCost, ProcessStart, StageCost, Throughput
from spacecompile.errors import SpacecompileError, from_unexpected
from spacecompile.metrics import Scores

_log = logging.getLogger(__name__)

NO_DATA = "Not measured: give labelled frames in the SPARK format with --data DIR"


@dataclass(kw_only=True)
class Draft:
    """What a run has found.

    Attributes:
        watch: Of the machine, from the start of the run.
        load_average_start: Before it.
        parity: `reports/parity.json` of the bundle.
        missing_backends: See `records.BenchResult`.
        contest: Latency.
        stream: Frames of it.
        process_start, throughput, scores: By entrant.
        torch_scores: By augmentation.
        graphs: By variant.
        stages: Of the network.
        cost_notes: Why graphs or stages are not there, by that name.
        notes: Why `process_start` or `drops` are not there, by that name.
        further: Limits and scaling.
        interrupted: Whether it was.
        failed: Steps after the latency run that failed, with their errors, in order.
    """

    watch: MachineWatch
    load_average_start: float | None
    parity: Any
    missing_backends: dict[str, str]
    contest: Contest = field(default_factory=Contest)
    stream: FrameStream | None = None
    process_start: dict[str, ProcessStart] = field(default_factory=dict)
    throughput: dict[str, tuple[Throughput, ...]] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)
    torch_scores: dict[str, Scores] = field(default_factory=dict)
    graphs: dict[str, GraphCost] = field(default_factory=dict)
    stages: tuple[StageCost, ...] = ()
    cost_notes: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    further: Further = field(default_factory=Further)
    interrupted: bool = False
    failed: dict[str, SpacecompileError] = field(default_factory=dict)

    @property
    def partial(self) -> bool:
        """Whether something that was asked for is not there."""
        return self.interrupted or bool(self.failed)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a step whose failure must not take with it what was measured before, not even a bug's.

        Args:
            name: Of the step, in the results.
        """
        try:
            yield
        except SpacecompileError as error:
            self.failed[name] = error
        except Exception as error:  # noqa: BLE001  hours of measurements are worth more than to stop at once
            self.failed[name] = unforeseen(name, error)


def unforeseen(step: str, error: Exception) -> SpacecompileError:
    """What stopped a step that no code foresaw; the log gets the traceback.

    Args:
        step: Its name in the results.
        error: What was raised.
    """
    _log.error("the step %s stopped", step, exc_info=error)
    failure = from_unexpected(error)
    failure.__cause__ = error
    return failure
