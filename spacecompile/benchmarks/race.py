"""The race: every variant and every peer set up, checked for the same answers, measured in turns, and closed.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec import UNSET

from spacecompile.benchmarks.agreement import Answered, answered_from_answer, tolerance_for
from spacecompile.benchmarks.latency.energy import measure_energy, open_counters
from spacecompile.benchmarks.latency.interleaved import Contestant, Recording, measure, settle
from spacecompile.benchmarks.latency.paced import Handled, paced_frames, summarise_paced
from spacecompile.benchmarks.latency.records import Energy
from spacecompile.benchmarks.latency.variants import VariantContestant, open_variant
from spacecompile.benchmarks.peers.box import left_out
from spacecompile.benchmarks.peers.guard import compared
from spacecompile.benchmarks.peers.table import PeerContestant, chosen_peers, failed, open_peers
from spacecompile.benchmarks.run import Race, Run
from spacecompile.benchmarks.step import NOT_ASKED, Step
from spacecompile.contract import Tta
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.runtime.backends.registry import entry_named

_PICTURES = 6
"""Answers that are kept for pictures."""


@contextmanager
def race(run: Run) -> Iterator[Race]:
    """Load the variants and open the peers that answer the frames; both are closed at the end.

    Raises:
        MissingPartError, UsageError: If none of the variants can run here.
        SpacecompileError: If a variant fails on the first frames.
    """
    found = run.race = Race()
    with ExitStack() as stack:
        for contestant in _opened_variants(run, found):
            stack.callback(contestant.close)
            found.variants.append(contestant)
        expected = _expected(run, found)
        found.entries = chosen_peers(run.settings.contest.peers, expected)
        opened, found.missing = open_peers(
            run.checkpoint,
            run.bundle.manifest.spec,
            threads=run.settings.contest.how.threads,
            entries=found.entries,
            progress=run.progress,
        )
        for peer in opened:
            stack.callback(peer.close)
        _compare_peers(run, found, opened, expected)
        found.order = [it.name for it in found.variants] + [it.name for it in found.peers]
        yield found


def _opened_variants(run: Run, found: Race) -> Iterator[VariantContestant]:
    """The variants that can run here; what keeps the others away is noted in the race."""
    failures: list[MissingPartError | UsageError] = []
    for done, entrant in enumerate(run.entrants, start=1):
        try:
            contestant, cold_start = open_variant(run.bundle, entrant, run.frames_HWC[0])
        except (MissingPartError, UsageError) as error:
            found.skipped[entrant.name] = str(error)
            failures.append(error)
            continue
        found.cold_starts[entrant.name], found.engines[entrant.name] = cold_start, contestant.engine
        yield contestant
        run.progress("load variants", done, len(run.entrants))
    if not found.engines:
        # A part that can be added is the better advice than a flag to change.
        raise next((error for error in failures if isinstance(error, MissingPartError)), failures[0])


def _expected(run: Run, found: Race) -> dict[Tta, list[Answered]]:
    """Answers of the first variant of every augmentation; those of the first without one are kept for pictures."""
    first: dict[Tta, VariantContestant] = {}
    for entrant, contestant in zip(run.able, found.variants, strict=True):
        first.setdefault(entrant.variant.tta, contestant)
    answers = {tta: [it.run(frame_HWC) for frame_HWC in run.frames_HWC] for tta, it in first.items()}
    shown = answers.get("none") or next(iter(answers.values()))
    found.samples = list(zip(run.frames_HWC, shown, strict=True))[:_PICTURES]
    return {tta: [answered_from_answer(answer) for answer in given] for tta, given in answers.items()}


def _compare_peers(
    run: Run, found: Race, opened: Sequence[PeerContestant], expected: Mapping[Tta, Sequence[Answered]]
) -> None:
    """Keep the peers that have a variant to be compared with and answer the frames; note what keeps others away."""
    spec = run.bundle.manifest.spec
    found.notes = {entry.name: left_out(spec, entry.tta) for entry in found.entries}
    found.versions = {peer.name: peer.versions for peer in opened}
    references = {peer.name: _reference(peer, expected) for peer in opened}
    found.missing |= {
        peer.name: f"no variant with tta {peer.tta} takes part; name one with --variant"
        for peer in opened
        if references[peer.name] is None
    }
    for comparison in compared(
        [peer for peer in opened if references[peer.name] is not None],
        run.frames_HWC,
        lambda peer: references[peer.name] or [],
        tolerance_for(spec),
        progress=run.progress,
    ):
        found.peers, found.agreements = comparison.able, comparison.agreements
        found.missing |= comparison.missing


def _reference(peer: PeerContestant, expected: Mapping[Tta, Sequence[Answered]]) -> Sequence[Answered] | None:
    """Answers of a variant with the peer's augmentation; a peer without one is compared with any."""
    if peer.tta == "none":
        return expected.get("none") or next(iter(expected.values()))
    return next((answers for tta, answers in expected.items() if tta != "none"), None)


def _latency(run: Run) -> Iterator[Recording]:
    """Variants, peers, and the variants' sessions handed files, in turns."""
    found, settings = run.race, run.settings.contest
    paths = run.stream.paths if run.stream and settings.from_file else ()
    plain = [
        contestant
        for entrant, contestant in zip(run.able, found.variants, strict=True)
        if entrant.variant.tta == "none"
    ]
    files = [contestant.from_files(paths) for contestant in plain if paths]
    found.of_files = {contestant.name: contestant.variant for contestant in files}
    everyone: list[Contestant] = [*found.variants, *found.peers, *files]
    yield found.recording
    expendable = [peer.name for peer in found.peers]
    try:
        measure(
            *(everyone, run.frames_HWC, settings.latency, found.recording),
            expendable=expendable,
            progress=run.progress,
        )
    finally:
        found.missing |= {name: failed(error) for name, error in found.recording.dropped.items()}


def _latency_fields(run: Run) -> Mapping[str, Any]:
    found = run.race
    if not found.recording.app_ms:
        return {"cold_start": found.cold_starts or UNSET, "skipped": found.skipped or UNSET}
    return {
        "latency": found.latencies(run.settings.contest.percentiles) or UNSET,
        "cold_start": found.cold_starts or UNSET,
        "skipped": found.skipped or UNSET,
    }


def _paced(run: Run) -> Iterator[dict[str, list[Handled]]]:
    """Frames handed to one variant after the other at the rate that was asked for.

    Peers could be paced as well, but a deadline is a question to what is shipped.
    """
    settings = run.settings.contest
    assert settings.rate_hz is not None  # `_why_not_paced` has seen to it
    handled: dict[str, list[Handled]] = {}
    for contestant in run.race.variants:
        settle(settings.latency.settle_max_ms)
        contestant.run(run.frames_HWC[0])
        for frame in paced_frames(
            contestant, run.frames_HWC, settings.rate_hz, duration_s=settings.paced_s, progress=run.progress
        ):
            handled.setdefault(contestant.name, []).append(frame)
            yield handled


def _why_not_paced(run: Run) -> str | None:
    return NOT_ASKED if run.settings.contest.rate_hz is None or "latency" in run.failed else None


def _paced_fields(run: Run) -> Mapping[str, Any]:
    settings = run.settings.contest
    handled: dict[str, list[Handled]] = run.sections.get("paced", {})
    if settings.rate_hz is None:
        return {}
    rate_hz, percentiles = settings.rate_hz, settings.percentiles
    return {"paced": {name: summarise_paced(frames, rate_hz, percentiles) for name, frames in handled.items()} or UNSET}


@dataclass(kw_only=True)
class _EnergyFound:
    """Energy by variant, and why some or all variants have none."""

    energy: dict[str, Energy] = field(default_factory=dict)
    note: str = ""


def _energy(run: Run) -> Iterator[_EnergyFound]:
    """The machine's counters around frames of every variant, where there are any of what it runs on."""
    counters, frames_HWC, contestants = open_counters(), run.frames_HWC, run.race.variants
    found, without = _EnergyFound(), dict[str, list[str]]()
    for done, contestant in enumerate(contestants, start=1):
        counting, reason = counters.of(on_gpu=entry_named(contestant.engine.name).on_gpu)
        if counting:
            found.energy[contestant.name] = measure_energy(
                lambda index, run=contestant.run: run(frames_HWC[index % len(frames_HWC)]),  # type: ignore[misc]
                counting,
            )
            run.progress("energy", done, len(contestants))
        else:
            without.setdefault(reason, []).append(contestant.name)
        yield found
    found.note = _energy_note(without, everyone=not found.energy)


def _energy_note(without: Mapping[str, Sequence[str]], *, everyone: bool) -> str:
    """Why variants have no energy: the one reason of all, or each with its names."""
    if everyone and len(without) == 1:
        return next(iter(without))
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in without.items())


def _why_no_energy(run: Run) -> str | None:
    if "latency" in run.failed:
        return NOT_ASKED
    return None if run.settings.contest.energy else "left out on request"


def _energy_fields(run: Run) -> Mapping[str, Any]:
    found: _EnergyFound = run.sections.get("energy", _EnergyFound())
    return {"energy": found.energy or UNSET, "energy_note": found.note or run.why("energy") or UNSET}


LATENCY = Step(name="latency", measure=_latency, fields=_latency_fields)
PACED = Step(name="paced", measure=_paced, requires=_why_not_paced, fields=_paced_fields)
ENERGY = Step(name="energy", measure=_energy, requires=_why_no_energy, fields=_energy_fields)
