"""Judging every variant on every backend that this machine has, and writing the certificate.

A variant ships by its first backend: ONNX Runtime, which is in the base install, or for bf16 the one that computes in
it. Every other backend that holds the tolerance too is certified besides; one that does not is left out and named.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from spacecompile.contract import Progress, Variant, no_progress
from spacecompile.errors import BuildError, IntegrityError, MissingPartError, UsageError
from spacecompile.export.parity.reference import REFERENCE, REFERENCE_THREADS, ExpectedAnswer
from spacecompile.export.parity.score_drop import Scoring
from spacecompile.export.parity.verdict import ParityReport, VariantParity, check_parity
from spacecompile.export.parity.worst_frame import draw_worst_frame
from spacecompile.runtime.backends.registry import BACKENDS, BackendEntry
from spacecompile.runtime.backends.stopwatch import StopwatchBackend
from spacecompile.runtime.cpu import cpu_features

_BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One variant on one backend.

    Attributes:
        verdict: Verdict on the variant.
        median_ms: Median time of the runs over the frames, cold caches included: an impression, no benchmark.
        worst_png: Picture of the worst frame; None where none was asked for.
    """

    verdict: VariantParity
    median_ms: float
    worst_png: bytes | None = None


def backends_of(variant: Variant) -> list[BackendEntry]:
    """Backends that this machine has and that can run a variant, the one that it ships by first.

    Raises:
        MissingPartError: If this machine has no such backend.
    """
    able = [entry for entry in BACKENDS if entry.runs(variant)]
    present = [entry for entry in able if entry.missing() is None]
    if not present:
        remedies = ", or ".join(entry.remedy for entry in able)
        raise MissingPartError(
            f"variant {variant.name} can't be certified: no backend that computes in {variant.precision} is installed. "
            f"Run: {remedies}"
        )
    if variant.precision == "bf16" and not cpu_features() & _BF16_FEATURES:
        raise MissingPartError(
            f"variant {variant.name} can't be certified: this CPU does not compute in bf16. Leave bf16 out of "
            "--precision, or build on a CPU with AVX512-BF16 or AMX."
        )
    return present


def judge(
    variant: Variant,
    content: bytes,
    expected: Sequence[ExpectedAnswer],
    *,
    entry: BackendEntry,
    scoring: Scoring,
    threads: int,
    picture: bool = False,
    progress: Progress = no_progress,
) -> Judgement:
    """Run one file on one backend and judge it.

    Args:
        variant: Variant to judge, with its tolerance.
        content: Content of the variant's file, as read from the disk.
        expected: PyTorch's answers with the variant's test-time augmentation.
        entry: Backend that runs the file.
        scoring: Classes and cost for the drop of the score.
        threads: Number of threads of the backend.
        picture: Whether to draw the worst frame.
        progress: Callback for progress.

    Raises:
        IntegrityError: If the engine refuses the file or fails on it.
        MissingPartError, UsageError: If it can't compute in the variant's precision on this machine.
    """
    # Engines keep what they compiled for the next load; a build loads each file once.
    engine = entry.factory()(content, precision=variant.precision, threads=threads, spinning=False, cache=False)
    timed = StopwatchBackend(engine)
    try:
        verdict = check_parity(
            variant.name,
            timed,
            expected,
            sha256=hashlib.sha256(content).hexdigest(),
            tolerance=variant.tolerance,
            scoring=scoring,
            progress=progress,
        )
        median_ms = statistics.median(timed.runs_ms)
        worst_png = draw_worst_frame(verdict, expected, engine.run, classes=scoring.classes) if picture else None
    finally:
        timed.close()
    return Judgement(verdict=verdict, median_ms=median_ms, worst_png=worst_png)


@contextmanager
def fresh_file(variant: str) -> Iterator[None]:
    """While a file of the running build is judged: an engine that refuses it has found a fault of the build.

    Raises:
        BuildError: In the place of an IntegrityError.
    """
    try:
        yield
    except IntegrityError as error:
        raise BuildError(f"variant {variant} was exported and can't be run: {error}") from error


def or_why_not(judging: Callable[[], Judgement]) -> Judgement | str:
    """A judgement on a backend that the variant does not depend on; the reason where it can't run the file here."""
    try:
        return judging()
    except (IntegrityError, MissingPartError, UsageError) as error:
        return str(error)


def parity_report(verdicts: Sequence[VariantParity], *, threads: int) -> ParityReport:
    """The certificate of all verdicts."""
    return ParityReport(
        reference=REFERENCE,
        backend=", ".join(dict.fromkeys(verdict.backend for verdict in verdicts)),
        reference_threads=REFERENCE_THREADS,
        backend_threads=threads,
        variants=tuple(verdicts),
    )


def with_certificates(variants: Sequence[Variant], certified: Mapping[str, Sequence[str]]) -> tuple[Variant, ...]:
    """The variants with the backends that they are certified on, by variant name."""
    return tuple(msgspec.structs.replace(variant, certified=tuple(certified[variant.name])) for variant in variants)
