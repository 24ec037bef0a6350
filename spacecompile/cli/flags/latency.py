"""Options that say how long a latency run lasts, for the commands that have one: `bench` and `prove`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from spacecompile.errors import UsageError

_LENGTH = partial(typer.Option, rich_help_panel="Length of the latency run")

DurationFlag = Annotated[float, _LENGTH(help="Seconds to measure at least; the run goes on until --samples are there.")]
SamplesFlag = Annotated[
    int,
    _LENGTH(help="Samples per contestant at least; a quarter of it with eight views. p90 needs 64, p99 662."),
]
WarmupFlag = Annotated[int, _LENGTH(help="Unrecorded rounds before at least.")]
WarmupSecondsFlag = Annotated[float, _LENGTH(help="Seconds of unrecorded rounds before at least.")]


def percentiles_from_text(text: str) -> tuple[float, ...]:
    """Parse and check --percentiles before anything is measured.

    Raises:
        UsageError: If a percentile is no number between 0 and 100.
    """
    from spacecompile.benchmarks.latency.summary import sample_floor

    try:
        values = tuple(float(value) for value in text.split(","))
    except ValueError as error:
        raise UsageError(f"percentiles are {text!r}; give numbers with commas, for example 50,90,99.") from error
    for value in values:
        sample_floor(value)
    return values
