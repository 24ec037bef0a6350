"""Running the parity certificate of a finished bundle again, on this machine, from the checkpoint that it was built of.

The reference is made anew, as in a build: eager PyTorch on the network as the checkpoint holds it, before any rewrite.
The files are those of the bundle, hashed as they are read, and each runs on every backend that it was certified on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spacecompile.contract import Manifest, Progress, Variant, no_progress
from spacecompile.errors import CheckpointError, IntegrityError, MissingPartError, ParityError
from spacecompile.export.parity.certificate import judge
from spacecompile.export.parity.frame_set import parity_frames
from spacecompile.export.parity.reference import REFERENCE, REFERENCE_THREADS, ViewByView, reference_answers
from spacecompile.export.parity.score_drop import Scoring
from spacecompile.export.parity.verdict import VariantParity
from spacecompile.network.checkpoint import load_source
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.record import Record
from spacecompile.runtime.backends.registry import BACKENDS, BackendEntry, choose_backend
from spacecompile.runtime.bundle import Bundle
from spacecompile.runtime.threads import usable_cores


@dataclass(frozen=True, kw_only=True)
class RecertifyOptions:
    """What the certificate is judged on.

    Attributes:
        data: Folder of real frames: a SPARK-format one or any of images; None for rendered frames.
        parity_frames: Largest number of real or rendered frames; the adversarial frames always run too.
        backend: Name of the only backend to judge; `auto` for every certified one that this machine has.
        threads: Number of threads of the backends; the usable cores if None.
    """

    data: Path | None = None
    parity_frames: int = 32
    backend: str = "auto"
    threads: int | None = None


class Recertificate(Record):
    """What `recertify` found.

    Attributes:
        reference: Name of what gave the reference answers.
        reference_threads, backend_threads: Number of threads per operator of the reference and of the backends.
        verdicts: Verdicts, one per variant and backend, in the order of the manifest.
        not_run: Sentences, one per variant and backend that this machine lacks or can't use.
    """

    reference: str
    reference_threads: int
    backend_threads: int
    verdicts: tuple[VariantParity, ...]
    not_run: tuple[str, ...]


def recertify(
    bundle: Bundle, checkpoint: Path, *, options: RecertifyOptions | None = None, progress: Progress = no_progress
) -> Recertificate:
    """Judge every file of a bundle against PyTorch again.

    Args:
        bundle: Bundle to judge.
        checkpoint: Checkpoint file that the bundle was built from.
        options: Frames, backend and threads to judge with; the defaults if None.
        progress: Callback for progress.

    Returns:
        The verdicts, failed ones too; `require_recertified` refuses these.

    Raises:
        IntegrityError: If the checkpoint is another file than the bundle was built from, or a file of the bundle
            differs from its manifest.
        CheckpointError, UsageError, DataError: If an argument can't be used.
        MissingPartError: If this machine lacks every backend that a variant was certified on, or can use none of them
            for any variant.
    """
    options = options or RecertifyOptions()
    manifest = bundle.manifest
    runs, not_run = _runs(manifest.variants, options.backend)
    network = _network_of(bundle, checkpoint)
    frames = parity_frames(
        manifest.spec.frame_size_px, data=options.data, count=options.parity_frames, progress=progress
    )
    shared = ViewByView(network)
    expected = {
        tta: reference_answers(shared, manifest.spec, tta, frames, progress=progress)
        for tta in dict.fromkeys(variant.tta for variant in manifest.variants)
    }
    threads = options.threads or usable_cores()
    scoring = Scoring(classes=manifest.spec.classes, cost=manifest.cost)
    verdicts: list[VariantParity] = []
    for variant, entry in runs:
        try:
            judged = judge(
                variant,
                bundle.read(variant.path),
                expected[variant.tta],
                entry=entry,
                scoring=scoring,
                threads=threads,
                progress=progress,
            )
        except MissingPartError as error:
            not_run += (f"variant {variant.name} did not run on {entry.name} ({error})",)
        else:
            verdicts.append(judged.verdict)
    _require_verdicts(verdicts, not_run)
    return Recertificate(
        reference=REFERENCE,
        reference_threads=REFERENCE_THREADS,
        backend_threads=threads,
        verdicts=tuple(verdicts),
        not_run=not_run,
    )


def _require_verdicts(verdicts: Sequence[VariantParity], not_run: Sequence[str]) -> None:
    if not verdicts:
        raise MissingPartError(f"no variant can be judged on this machine: {'; '.join(not_run)}.")


def require_recertified(certificate: Recertificate) -> None:
    """Refuse a bundle with a file that failed.

    Raises:
        ParityError: If a file failed; names every broken limit.
    """
    failed = [
        f"variant {verdict.variant} on {verdict.backend}: {'; '.join(verdict.failures)}"
        for verdict in certificate.verdicts
        if not verdict.passed
    ]
    if failed:
        raise ParityError(
            f"the certificate does not hold on this machine: {'; '.join(failed)}. Do not use the bundle here: try "
            "another version of the backend, or build the bundle again."
        )


def _runs(variants: Sequence[Variant], requested: str) -> tuple[list[tuple[Variant, BackendEntry]], tuple[str, ...]]:
    """Which backend runs which variant, and what can't run here. Plans were tested where they were made."""
    plans = [variant for variant in variants if variant.path.endswith(".plan")]
    variants = [variant for variant in variants if variant not in plans]
    if requested != "auto":
        return [(variant, choose_backend(requested, variant)[0]) for variant in variants], ()
    runs: list[tuple[Variant, BackendEntry]] = []
    not_run = [f"variant {plan.name} is a plan, which `spacecompile selftest` tests on its machine" for plan in plans]
    for variant in variants:
        absent = {name: _why_absent(name) for name in variant.certified}
        lacking = [f"{name} ({reason})" for name, reason in absent.items() if reason]
        if len(lacking) == len(absent):
            raise MissingPartError(
                f"variant {variant.name} can't be judged: this machine lacks every backend that it is certified on, "
                f"{', '.join(lacking) or 'which are none'}."
            )
        not_run += [f"variant {variant.name} did not run on {backend}" for backend in lacking]
        runs += [(variant, entry) for entry in BACKENDS if entry.name in absent and not absent[entry.name]]
    return runs, tuple(not_run)


def _why_absent(name: str) -> str | None:
    entry = next((entry for entry in BACKENDS if entry.name == name), None)
    if entry is None:
        return "this spacecompile does not know it; install the one that made the bundle"
    reason = entry.missing()
    return None if reason is None else f"{reason}; add it with: {entry.remedy}"


def _network_of(bundle: Bundle, checkpoint: Path) -> MultiTaskNetwork:
    """The network of the checkpoint that the bundle was built from, with the spec that it was built for."""
    manifest: Manifest = bundle.manifest
    try:
        sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {checkpoint} can't be read: {error.strerror}. Check --checkpoint."
        ) from error
    if sha256 != manifest.source_sha256:
        raise IntegrityError(
            f"{checkpoint} has SHA-256 {sha256}; {bundle.root} was built from a checkpoint with "
            f"{manifest.source_sha256}. Name that checkpoint with --checkpoint, or build a bundle from this one."
        )
    return load_source(checkpoint, manifest.spec).network
