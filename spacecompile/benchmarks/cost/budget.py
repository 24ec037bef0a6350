"""The cost of a network against the limits of the benchmark or of a user's own file."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from spacecompile.benchmarks.cost.records import BudgetLine, BudgetReport
from spacecompile.benchmarks.latency.records import Latency, ProcessStart
from spacecompile.benchmarks.latency.summary import percentile_of
from spacecompile.contract import Budget, Cost, Manifest
from spacecompile.errors import BudgetError, UsageError

COUNTER = "fvcore, one multiply-add counted once"

COUNTERS = {
    "gmacs_max": COUNTER,
    "macs_fvcore": "fvcore.nn.FlopCountAnalysis: a multiply-add counted once; norms, pooling and upsampling included",
    "macs_torch": "torch.utils.flop_counter.FlopCounterMode, halved: matrix products and convolutions only",
    "graphs": "the ONNX file's own nodes: convolutions and matrix products, attention included, a multiply-add once",
    "params": "elements of every parameter",
}
"""What counted each number of a budget report."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of every variant; a name that is not there was not.

    Attributes:
        file_bytes: Sizes of the graph files in bytes.
        process_start, app, drops: By variant; see `records`.
        why: Why there is no start, latency or drop at all, by those three names.
        left_out: Why a variant that was asked for takes no part, by its name.
    """

    file_bytes: Mapping[str, int] = field(default_factory=dict)
    process_start: Mapping[str, ProcessStart] = field(default_factory=dict)
    app: Mapping[str, Latency] = field(default_factory=dict)
    drops: Mapping[str, float] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


NOT_MEASURED = "it was not measured"

Value = float | str
"""A number, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class _Limit:
    """One limit that is judged for every variant.

    Attributes:
        key: In the file.
        label: For people.
        unit: Unit of value and limit.
        value: Value of one variant.
    """

    key: str
    label: str
    unit: str
    value: Callable[[Measured, str], Value]


def _file_mb(measured: Measured, name: str) -> Value:
    return measured.file_bytes[name] / 1e6 if name in measured.file_bytes else NOT_MEASURED


def _started(pick: Callable[[ProcessStart], float]) -> Callable[[Measured, str], Value]:
    def value(measured: Measured, name: str) -> Value:
        start = measured.process_start.get(name)
        if start is None:
            return measured.why.get("process_start", NOT_MEASURED)
        return start.problem or pick(start)

    return value


def _latency(key: str) -> Callable[[Measured, str], Value]:
    def value(measured: Measured, name: str) -> Value:
        latency = measured.app.get(name)
        if latency is None:
            return measured.why.get("app", NOT_MEASURED)
        if key == "max_ms":
            return latency.max_ms
        seen = percentile_of(latency, key)
        return f"{latency.missing_samples[key]:,} more samples are needed, raise --samples" if seen is None else seen

    return value


def _drop(measured: Measured, name: str) -> Value:
    return measured.drops.get(name, measured.why.get("drops", NOT_MEASURED))


_LIMITS = (
    _Limit(key="file_mb_max", label="Graph file", unit="MB", value=_file_mb),
    _Limit(
        key="memory_mb_max", label="Peak memory", unit="MB", value=_started(lambda start: start.peak_memory_bytes / 1e6)
    ),
    _Limit(key="load_ms_max", label="Load", unit="ms", value=_started(lambda start: start.load_ms)),
    _Limit(
        key="first_answer_ms_max",
        label="Start to first answer",
        unit="ms",
        value=_started(lambda start: start.start_to_answer_ms),
    ),
    *(
        _Limit(key=f"{key}_max", label=f"Latency {key.removesuffix('_ms')}", unit="ms", value=_latency(key))
        for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms")
    ),
    _Limit(key="score_drop_max", label="Drop of s_final", unit="", value=_drop),
)


def read_budget(path: Path) -> Budget:
    """Read limits from a TOML file with the keys of `contract.Budget`; a key that is left out keeps its default.

    Raises:
        UsageError: If the file can't be read, holds an unknown key, or a limit that is negative or infinite.
    """
    known = ", ".join(field.name for field in msgspec.structs.fields(Budget))
    try:
        budget = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Budget)
    except OSError as error:
        raise UsageError(f"budget file {path} can't be read ({error.strerror}). Check --budget.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"budget file {path} is not usable: {error}. Its keys are {known}, each a number.") from error
    limits = {key: limit for key, limit in msgspec.structs.asdict(budget).items() if key != "variants"}
    bad = {key: limit for key, limit in limits.items() if limit is not None and not 0 <= limit < float("inf")}
    if bad:
        raise UsageError(f"budget file {path} holds {bad}; a limit is a number, zero or above. Check --budget.")
    return budget


def check_budget(
    manifest: Manifest, budget: Budget, measured: Measured | None = None, names: Sequence[str] = ()
) -> BudgetReport:
    """Judge the rewritten network, the one that ships, and what was measured of its variants, against every limit.

    Args:
        manifest: Manifest of the bundle.
        budget: Limits.
        measured: Measurements of the variants; without it only the network's cost is judged.
        names: Names of the variants that were to be measured.
    """
    cost = manifest.cost
    lines = [
        _line("gmacs_max", "Multiply-adds", gmacs(cost), budget.gmacs_max, "GMAC"),
        _line("mparams_max", "Parameters", mparams(cost), budget.mparams_max, "M"),
    ]
    unjudged: dict[str, str] = {}
    if measured is not None:
        _judge(lines, unjudged, budget, measured, names)
    return BudgetReport(
        passed=all(line.passed for line in lines) and not unjudged,
        lines=tuple(lines),
        unjudged=unjudged,
        counters=COUNTERS,
        counter=COUNTER,
        cost_source=manifest.cost_source,
        cost=cost,
        rewrites=manifest.rewrites,
    )


def _judge(
    lines: list[BudgetLine], unjudged: dict[str, str], budget: Budget, measured: Measured, names: Sequence[str]
) -> None:
    """Add one line per limit and variant, or why it can't be judged."""
    # `fp32` in a budget means that variant on every engine, `fp32@openvino` on one.
    wanted = [name for name in names if not budget.variants or {name, name.partition("@")[0]} & set(budget.variants)]
    taking_part = {*names, *(name.partition("@")[0] for name in names)}
    absent = [name for name in budget.variants if name not in taking_part]
    for limit in _LIMITS:
        bound = getattr(budget, limit.key)
        if bound is None:
            continue
        if not names:
            unjudged[limit.key] = "no variant takes part"
        for name in absent:
            unjudged[f"{limit.key} of {name}"] = _why_absent(name, measured.left_out)
        for name in wanted:
            value = limit.value(measured, name)
            if isinstance(value, str):
                unjudged[f"{limit.key} of {name}"] = value
            else:
                lines.append(_line(limit.key, f"{limit.label}, {name}", value, bound, limit.unit))


def _why_absent(name: str, left_out: Mapping[str, str]) -> str:
    """Why no variant of a name takes part: on one engine, or each reason once where it was left out on several."""
    reasons = [left_out[name]] if name in left_out else []
    reasons += [reason for entrant, reason in left_out.items() if entrant.partition("@")[0] == name != entrant]
    return "; ".join(dict.fromkeys(reasons)) or "no variant of that name takes part"


def gmacs(cost: Cost) -> float:
    """Multiply-adds in fvcore's convention, in units of 1e9."""
    return cost.macs_fvcore / 1e9


def mparams(cost: Cost) -> float:
    """Parameters in units of 1e6."""
    return cost.params / 1e6


def _line(key: str, label: str, value: float, limit: float, unit: str) -> BudgetLine:
    return BudgetLine(
        key=key, label=label, value=value, limit=limit, margin=limit - value, unit=unit, passed=value <= limit
    )


def budget_error(report: BudgetReport) -> BudgetError | None:
    """The error of a report with a limit that is exceeded or can't be judged; None when every limit holds."""
    exceeded = [
        f"{_uncapitalised(line.label)} {_quantity(line.value, line.unit)} against {_quantity(line.limit, line.unit)}"
        for line in report.lines
        if not line.passed
    ]
    unjudged = [f"{key} can't be judged: {reason}" for key, reason in report.unjudged.items()]
    if not exceeded and not unjudged:
        return None
    sentences = []
    if exceeded:
        sentences.append(
            f"budget exceeded: {'; '.join(exceeded)}. Make what ships smaller or faster, or raise the limit in the "
            "file of --budget."
        )
    if unjudged:
        sentences.append(
            f"budget not shown to hold: {'; '.join(unjudged)}. Measure what is missing, or leave the limit out of the "
            "file of --budget."
        )
    return BudgetError(" ".join(sentences))


def _quantity(value: float, unit: str) -> str:
    return f"{value:.4g} {unit}".rstrip()


def _uncapitalised(label: str) -> str:
    return label[:1].lower() + label[1:]
