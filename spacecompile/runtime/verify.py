"""Whether a bundle is whole, and still answers as PyTorch did on its self-test frames. Needs the base install only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spacecompile.contract import Progress, no_progress
from spacecompile.runtime.bundle import Bundle, open_bundle
from spacecompile.runtime.selftest import SelftestResult, run_selftest


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was verified.

    Attributes:
        bundle: The bundle, every file of which has the hash that its manifest says.
        selftest: Deviations from PyTorch's answers on the self-test frames; None where they were left out.
    """

    bundle: Bundle
    selftest: SelftestResult | None


def selftest(
    bundle: Bundle | Path | str,
    *,
    backend: str = "auto",
    variant: str | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> SelftestResult:
    """Run a bundle's own frames on this machine and compare with PyTorch's answers; hashes only what it reads.

    Args:
        bundle: Bundle or its folder.
        backend: Name of the only engine to run on; `auto` for each certified one that is present.
        variant: Name of the only variant to test; all if None.
        threads: Number of CPU threads; the usable physical cores if None.
        progress: Callback for progress.

    Raises:
        UsageError: If the backend or the variant is unknown.
        IntegrityError: If a file differs from the manifest.
        ParityError: If a variant misses its tolerance.
        MissingPartError: If nothing could be tested here.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, verify=False)
    return run_selftest(opened, backend=backend, variant=variant, threads=threads, progress=progress)


def verify(
    bundle: Bundle | Path | str,
    *,
    frames: bool = True,
    backend: str = "auto",
    variant: str | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> VerifyReport:
    """Check every file of a bundle against its manifest, then run its self-test on this machine.

    `recertify` judges every file against PyTorch anew.

    Args:
        bundle: Bundle or its folder.
        frames: Whether the self-test frames are run.
        backend: Name of the only engine to run on; `auto` for each certified one that is present.
        variant: Name of the only variant to test; all if None.
        threads: Number of CPU threads; the usable physical cores if None.
        progress: Callback for progress.

    Raises:
        IntegrityError: If a file was changed, is missing or was added.
        UsageError, ParityError, MissingPartError: As `selftest`.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, verify=False)
    opened.verify_all(progress=progress)
    tested = None
    if frames:
        tested = selftest(opened, backend=backend, variant=variant, threads=threads, progress=progress)
    return VerifyReport(bundle=opened, selftest=tested)
