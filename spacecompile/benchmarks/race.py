"""One latency run: every variant and every peer set up, checked for the same answers, measured, and closed.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from spacecompile.benchmarks.agreement import Answered, tolerance_for
from spacecompile.benchmarks.frame_stream import FrameStream
from spacecompile.benchmarks.latency.energy import measure_energy, open_counters
from spacecompile.benchmarks.latency.interleaved import Contestant, measure, settle
from spacecompile.benchmarks.latency.paced import run_paced
from spacecompile.benchmarks.latency.variants import (
    Entrant,
    VariantContestant,
    answered_from_answer,
    open_variant,
)
from spacecompile.benchmarks.peers.box import left_out
from spacecompile.benchmarks.peers.guard import answering, dropping
from spacecompile.benchmarks.peers.table import PeerContestant, chosen_peers, open_peers
from spacecompile.benchmarks.run import PICTURES, Contest
from spacecompile.benchmarks.settings import ContestSettings
from spacecompile.contract import ModelSpec, Progress, Tta, no_progress
from spacecompile.errors import MissingPartError, UsageError
from spacecompile.runtime.backends.registry import entry_named
from spacecompile.runtime.bundle import Bundle


def run_contest(
    bundle: Bundle,
    variants: Sequence[Entrant],
    stream: FrameStream,
    checkpoint: Path | str,
    *,
    settings: ContestSettings,
    contest: Contest,
    step: Callable[[str], AbstractContextManager[None]],
    progress: Progress = no_progress,
) -> None:
    """Fill `contest`; it stays valid when a KeyboardInterrupt passes through.

    Args:
        bundle: Verified.
        variants: Of it, at least one. A peer's answers are compared with the first that augments as it does.
        stream: Frames.
        checkpoint: For the peers; a text says why there is none, and what to do.
        settings: How.
        contest: To fill.
        step: Around each part after the latency run, by its name: what is done with its error.
        progress: Told each step.

    Raises:
        MissingPartError, UsageError: If none of the variants can run here.
        SpacecompileError: If a variant fails in the latency run, or whatever `step` lets pass.
    """
    with ExitStack() as stack:
        opened = _open_variants(bundle, variants, stream, contest, stack=stack, progress=progress)
        able = [entrant for entrant in variants if entrant.name in opened]
        expected = _expected(able, opened, stream, contest)
        contest.entries = chosen_peers(settings.peers, expected)
        opened_peers, contest.missing = open_peers(
            checkpoint,
            bundle.manifest.spec,
            threads=settings.how.threads,
            entries=contest.entries,
            progress=progress,
        )
        for peer in opened_peers:
            stack.callback(peer.close)
        peers = _able_peers(opened_peers, bundle.manifest.spec, stream, expected, contest, progress=progress)
        plain = [opened[entrant.name] for entrant in able if entrant.variant.tta == "none"]
        files = [contestant.from_files(stream.paths) for contestant in plain if settings.from_file and stream.paths]
        contest.of_files = {contestant.name: contestant.variant for contestant in files}
        contest.order = [*opened, *(peer.name for peer in peers)]
        everyone: list[Contestant] = [*opened.values(), *peers, *files]
        drop = dropping(peers, contest.missing)
        measure(everyone, stream.frames_HWC, settings.latency, contest.recording, drop=drop, progress=progress)
        with step("paced"):
            # Peers could be paced as well, but a deadline is a question to what is shipped.
            _run_paced(list(opened.values()), stream, settings, contest, progress)
        with step("energy"):
            _run_energy(list(opened.values()), stream, settings, contest, progress)


def _open_variants(
    bundle: Bundle,
    variants: Sequence[Entrant],
    stream: FrameStream,
    contest: Contest,
    *,
    stack: ExitStack,
    progress: Progress,
) -> dict[str, VariantContestant]:
    """Load the variants that can run here; what keeps the others away goes into `contest`."""
    opened: dict[str, VariantContestant] = {}
    failures: list[MissingPartError | UsageError] = []
    for done, entrant in enumerate(variants, start=1):
        try:
            contestant, cold_start = open_variant(bundle, entrant, stream.frames_HWC[0])
        except (MissingPartError, UsageError) as error:
            contest.skipped[entrant.name] = str(error)
            failures.append(error)
            continue
        stack.callback(contestant.close)
        opened[entrant.name], contest.cold_starts[entrant.name] = contestant, cold_start
        contest.engines[entrant.name] = contestant.engine
        progress("load variants", done, len(variants))
    if not opened:
        # A part that can be added is the better advice than a flag to change.
        raise next((error for error in failures if isinstance(error, MissingPartError)), failures[0])
    return opened


def _expected(
    able: Sequence[Entrant], opened: Mapping[str, VariantContestant], stream: FrameStream, contest: Contest
) -> dict[Tta, list[Answered]]:
    """Answers of the first variant of every augmentation; those of the first without one are kept for pictures."""
    first: dict[Tta, str] = {}
    for entrant in able:
        first.setdefault(entrant.variant.tta, entrant.name)
    answers = {tta: [opened[name].run(frame_HWC) for frame_HWC in stream.frames_HWC] for tta, name in first.items()}
    shown = answers.get("none") or next(iter(answers.values()))
    contest.samples = list(zip(stream.frames_HWC, shown, strict=True))[:PICTURES]
    return {tta: [answered_from_answer(answer) for answer in given] for tta, given in answers.items()}


def _able_peers(
    peers: Sequence[PeerContestant],
    spec: ModelSpec,
    stream: FrameStream,
    expected: Mapping[Tta, Sequence[Answered]],
    contest: Contest,
    *,
    progress: Progress,
) -> list[PeerContestant]:
    """Those that have a variant to be compared with and answer the frames; what keeps others away is noted."""
    contest.notes = {entry.name: left_out(spec, entry.tta) for entry in contest.entries}
    contest.versions = {peer.name: peer.versions for peer in peers}
    return answering(
        _comparable(peers, expected, contest),
        stream.frames_HWC,
        lambda peer: _reference(peer, expected) or [],  # `_comparable` has seen to it
        tolerance_for(spec),
        agreements=contest.agreements,
        missing=contest.missing,
        progress=progress,
    )


def _comparable(
    peers: Sequence[PeerContestant], expected: Mapping[Tta, Sequence[Answered]], contest: Contest
) -> list[PeerContestant]:
    """The peers that a variant with the same augmentation takes part for; without one, any without is compared."""
    kept = []
    for peer in peers:
        if peer.tta == "none" or _reference(peer, expected) is not None:
            kept.append(peer)
        else:
            contest.missing[peer.name] = f"no variant with tta {peer.tta} takes part; name one with --variant"
    return kept


def _reference(peer: PeerContestant, expected: Mapping[Tta, Sequence[Answered]]) -> Sequence[Answered] | None:
    if peer.tta == "none":
        return expected.get("none") or next(iter(expected.values()))
    return next((answers for tta, answers in expected.items() if tta != "none"), None)


def _run_paced(
    contestants: Sequence[Contestant],
    stream: FrameStream,
    settings: ContestSettings,
    contest: Contest,
    progress: Progress,
) -> None:
    """Hand frames to one contestant after the other at the rate that was asked for."""
    if settings.rate_hz is None:
        return
    for contestant in contestants:
        settle(settings.latency.settle_max_ms)
        contestant.run(stream.frames_HWC[0])
        run_paced(
            contestant,
            stream.frames_HWC,
            settings.rate_hz,
            handled=contest.handled.setdefault(contestant.name, []),
            duration_s=settings.paced_s,
            progress=progress,
        )


def _run_energy(
    contestants: Sequence[VariantContestant],
    stream: FrameStream,
    settings: ContestSettings,
    contest: Contest,
    progress: Progress,
) -> None:
    """Read the machine's counters around frames of every variant, where there are any of what it runs on."""
    if not settings.energy:
        contest.energy_note = "left out on request"
        return
    counters, frames_HWC = open_counters(), stream.frames_HWC
    without: dict[str, list[str]] = {}
    for done, contestant in enumerate(contestants, start=1):
        counting, reason = counters.of(on_gpu=entry_named(contestant.engine.name).on_gpu)
        if counting:
            contest.energy[contestant.name] = measure_energy(
                lambda index, run=contestant.run: run(frames_HWC[index % len(frames_HWC)]),  # type: ignore[misc]
                counting,
            )
            progress("energy", done, len(contestants))
        else:
            without.setdefault(reason, []).append(contestant.name)
    contest.energy_note = _energy_note(without, everyone=not contest.energy)


def _energy_note(without: Mapping[str, Sequence[str]], *, everyone: bool) -> str:
    """Why variants have no energy: the one reason of all, or each with its names."""
    if everyone and len(without) == 1:
        return next(iter(without))
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in without.items())
