"""What the report says of a result beside its tables: how it ended, key figures, the machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec
from msgspec import UnsetType

from spacecompile.benchmarks.cost.budget import budget_error
from spacecompile.benchmarks.latency.records import Latency, Ratio
from spacecompile.benchmarks.result_records import BenchResult
from spacecompile.errors import EXIT_OK, InterruptedRunError
from spacecompile.machine.records import MachineFacts

_UNTOLD = "not told by the system"


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """One number at the top of the page."""

    value: str
    unit: str
    label: str


class ShownParity(msgspec.Struct):
    """What the page shows of one variant's part of `reports/parity.json`; further fields are ignored."""

    variant: str
    passed: bool
    num_frames: dict[str, int]
    class_agreement: float
    class_probs_max: float
    parts_iou_min: float
    box_px_max: float
    backend: str = ""
    failures: tuple[str, ...] = ()


class ShownCertificate(msgspec.Struct):
    """What the page shows of `reports/parity.json`."""

    variants: list[ShownParity]
    reference: str = ""
    backend: str = ""


def certificate_of(result: BenchResult) -> ShownCertificate | None:
    """The parity report; None where the bundle holds none of this form."""
    try:
        return msgspec.convert(result.parity, ShownCertificate)
    except msgspec.ValidationError:
        return None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the command ends.

    Attributes:
        interrupted: Whether the user stopped the run.
        steps: Reason of each failed step, by the step's name.
        failure: Message of an error that is neither an interrupt nor a failed step's; empty without one.
        exit_code: Exit code of the command.
    """

    interrupted: bool
    steps: Mapping[str, str]
    failure: str
    exit_code: int


def ending_of(result: BenchResult) -> Ending:
    """How the command ends, by its own error; without one, by what the result holds."""
    steps: Mapping[str, str] = {} if isinstance(result.failed_steps, UnsetType) else result.failed_steps
    if not isinstance(result.error, UnsetType):
        interrupted = result.error.kind == InterruptedRunError.__name__
        told = interrupted or result.error.message in steps.values()
        return Ending(
            interrupted=interrupted,
            steps=steps,
            failure="" if told else result.error.message,
            exit_code=result.error.exit_code,
        )
    if result.partial:
        # What a stopped run did not come to is no broken limit.
        return Ending(interrupted=not steps, steps=steps, failure="", exit_code=InterruptedRunError.exit_code)
    error = budget_error(result.budget)
    return Ending(
        interrupted=False,
        steps={},
        failure=str(error or ""),
        exit_code=error.exit_code if error else EXIT_OK,
    )


def ratios_of(result: BenchResult) -> list[tuple[str, str, Ratio]]:
    """Variant, peer and ratio of every pair that was measured, by variant."""
    if isinstance(result.peers, UnsetType):
        return []
    found = [(variant, name, ratio) for name, peer in result.peers.items() for variant, ratio in peer.ratios.items()]
    order = {variant: place for place, variant in reversed(list(enumerate(variant for variant, _, _ in found)))}
    known = list(result.subject.variant_bytes)
    return sorted(found, key=lambda row: known.index(row[0]) if row[0] in known else len(known) + order[row[0]])


def engine_lines(result: BenchResult) -> list[tuple[str, str]]:
    """Name of each variant that was measured, with the engine that ran it and why that one."""
    engines = {} if isinstance(result.configuration, UnsetType) else result.configuration.engines
    return [(name, f"{engine.name} {engine.version}, {engine.reason}") for name, engine in engines.items()]


def machine_lines(machine: MachineFacts | None, governor: str | None) -> list[tuple[str, str]]:
    """Name and text of what the machine did during the run."""
    facts = machine or MachineFacts()
    stolen = _UNTOLD if facts.stolen_share is None else f"{facts.stolen_share:.1%}"
    others = _UNTOLD if facts.others_share is None else f"{facts.others_share:.1%}"
    throttled = _UNTOLD if facts.throttle_events is None else f"{facts.throttle_events} times"
    clock = _from_to(facts.frequency_start_mhz, facts.frequency_end_mhz, "MHz")
    return [
        ("Clock", f"{clock}; governor {governor or _UNTOLD}"),
        ("Heat", f"{_from_to(facts.temperature_start_c, facts.temperature_end_c, '°C')}; throttled: {throttled}"),
        ("Processor time", f"stolen by a hypervisor: {stolen}; taken by other processes: {others}"),
        ("GPUs", ", ".join(facts.accelerators) or "none that NVML lists"),
    ]


def _from_to(start: float | None, end: float | None, unit: str) -> str:
    if start is None or end is None:
        return _UNTOLD
    return f"{start:,.0f} {unit} before, {end:,.0f} {unit} after"


def key_figures(result: BenchResult) -> list[KeyFigure]:
    """What a reader wants first, from what was measured: seven at most."""
    variant, latency = _first_variant(result)
    found = []
    if latency is not None:
        found.append(_time(variant, latency))
        found += _against_peers(result, variant)
    if not isinstance(result.roofline, UnsetType) and variant in result.roofline.variants:
        share = result.roofline.variants[variant].share
        found.append(KeyFigure(value=f"{share:.0%}"[:-1], unit="%", label="of the machine's limit reached"))
    cost, before = result.budget.cost, result.budget.cost_source
    macs, macs_before = cost.macs_fvcore / 1e9, before.macs_fvcore / 1e9
    found.append(KeyFigure(value=f"{macs:.2f}", unit="GMAC", label=f"was {macs_before:.2f} before the rewrites"))
    found.append(KeyFigure(value=f"{cost.params / 1e6:.3f}", unit="M", label="parameters"))
    scores = None if isinstance(result.score, UnsetType) else result.score.variants.get(variant)
    if scores is not None:
        found.append(KeyFigure(value=f"{scores.s_final:.4f}", unit="", label=f"S_final on {scores.frames} frames"))
    return found


def _first_variant(result: BenchResult) -> tuple[str, Latency | None]:
    """The first that was measured; a name may tell its engine too, as `fp32@openvino` does."""
    app = {} if isinstance(result.latency, UnsetType) else result.latency.get("app", {})
    for name, latency in app.items():
        if name not in result.peer_names:
            return name, latency
    skipped: Collection[str] = () if isinstance(result.skipped, UnsetType) else result.skipped
    names = list(result.subject.variant_bytes)
    return next((name for name in names if name not in skipped), names[0]), None


def _time(variant: str, latency: Latency) -> KeyFigure:
    """The median, or below its sample floor the largest of so few samples."""
    value_ms, what = (latency.max_ms, "slowest") if latency.p50_ms is None else (latency.p50_ms, "median")
    number = f"{value_ms:.0f}" if value_ms >= 10 else f"{value_ms:.2f}"
    return KeyFigure(value=number, unit="ms", label=f"{what}, {variant}, frame to answer")


def _against_peers(result: BenchResult, variant: str) -> list[KeyFigure]:
    """The peers that are the hardest and the easiest to beat, of those that do the same work."""
    ratios: Mapping[str, Ratio] = {peer: ratio for name, peer, ratio in ratios_of(result) if name == variant}
    if not isinstance(result.peers, UnsetType):
        views = {name for name in ratios if result.peers[name].tta != "none"}
        ratios = {name: ratio for name, ratio in ratios.items() if name in views} if views else ratios
    by_ratio = sorted(ratios, key=lambda name: -ratios[name].ratio)
    chosen = dict.fromkeys([*by_ratio[:1], *by_ratio[-1:]])
    rank = ("the fastest peer", "the slowest") if len(chosen) > 1 else ("its peer",)
    return [
        KeyFigure(value=f"{ratios[name].ratio:.2f}", unit="x", label=f"the time of {name}, {which}")
        for name, which in zip(chosen, rank, strict=False)
    ]
