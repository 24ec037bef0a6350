"""`spacecompile verify`: is a bundle whole, and does it still answer as PyTorch does?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from spacecompile.cli import console
from spacecompile.cli.own_process import wait_passively
from spacecompile.cli.selftest import say_selftest
from spacecompile.cli.show.build import parity_line
from spacecompile.cli.show.layout import megabytes
from spacecompile.errors import ParityError, UsageError
from spacecompile.extras import require_extra

if TYPE_CHECKING:
    from spacecompile.export.parity.recertify import Recertificate
    from spacecompile.runtime.bundle import Bundle
    from spacecompile.runtime.selftest import SelftestResult


def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `build` made.", show_default=False)],
    *,
    variant: Annotated[str | None, typer.Option(help="Self-test only this one; all if not given.")] = None,
    selftest: Annotated[bool, typer.Option("--selftest/--no-selftest", help="Run the self-test frames.")] = True,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="CKPT", help="Run the parity certificate again from this, with PyTorch.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Real frames for the certificate, as in `build`.")] = None,
    parity_frames: Annotated[int | None, typer.Option(min=0, help="How many of them at most.  [default: 32]")] = None,
    backend: Annotated[str, typer.Option(help="Engine that runs the graphs.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; the usable physical cores if not given.")] = None,
    json: Annotated[str | None, typer.Option("--json", help="Write the result to FILE, or - for stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the JSON file.")] = False,
) -> None:
    """Check every file of a bundle against its manifest, then run its self-test on this machine. Needs no torch.

    With --checkpoint every file is judged against PyTorch again, by the manifest's tolerances, on every backend that it
    was certified on and that this machine has. Exits with 7 when a file was changed, is missing or was added, or the
    checkpoint is not the bundle's, and with 5 when a variant misses its tolerance.

    Example: spacecompile verify net.spacepkg --checkpoint ckpt.pt --data frames
    """
    from spacecompile.runtime.verify import verify as verify_bundle

    _check_flags(checkpoint, data=data, parity_frames=parity_frames)
    console.check_json(json, force=force, bundle=bundle)
    started_s = time.perf_counter()
    certificate: Recertificate | None = None
    with console.progress_bar() as progress:
        report = verify_bundle(
            bundle, frames=selftest, backend=backend, variant=variant, threads=threads, progress=progress
        )
        opened, tested = report.bundle, report.selftest
        if checkpoint is not None:
            from spacecompile.export.parity.recertify import RecertifyOptions, recertify

            options = RecertifyOptions(
                data=data,
                parity_frames=32 if parity_frames is None else parity_frames,
                backend=backend,
                threads=threads,
            )
            certificate = recertify(opened, checkpoint, options=options, progress=progress)
    _say_files(opened)
    if tested is not None:
        say_selftest(tested)
    error = None if certificate is None else _say_certificate(certificate)
    console.say(f"verified in {time.perf_counter() - started_s:.1f} s")
    if json is not None:
        console.emit_json(_document(opened, tested, certificate, error), json)
    if error is not None:
        error.has_document = json == "-"
        raise error
    console.say_line(f"next: [bold]spacecompile predict {console.quoted(bundle)} IMAGES -o out[/]")


def _check_flags(checkpoint: Path | None, *, data: Path | None, parity_frames: int | None) -> None:
    if checkpoint is not None:
        require_extra("compile", "verify --checkpoint")
        wait_passively()
    elif data is not None or parity_frames is not None:
        flag = "--data" if data is not None else "--parity-frames"
        raise UsageError(f"{flag} is for the certificate, which needs PyTorch's answers. Add --checkpoint CKPT.")


def _say_files(bundle: Bundle) -> None:
    console.say_line(f"manifest SHA-256 {bundle.manifest_sha256}")
    total_bytes = sum(fact.bytes for fact in bundle.manifest.files.values())
    console.say(f"{len(bundle.manifest.files)} files, {megabytes(total_bytes)}: every hash is right")


def _say_certificate(certificate: Recertificate) -> ParityError | None:
    """Print every verdict; the error if one failed."""
    from spacecompile.export.parity.recertify import require_recertified

    for verdict in certificate.verdicts:
        console.say_line(escape(parity_line(verdict)) + ("" if verdict.passed else "  [bold red]failed[/]"))
    for sentence in certificate.not_run:
        console.say_line(f"[yellow]note[/] {escape(sentence)}")
    try:
        require_recertified(certificate)
    except ParityError as error:
        return error
    return None


def _document(
    bundle: Bundle,
    tested: SelftestResult | None,
    certificate: Recertificate | None,
    error: ParityError | None,
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "bundle": bundle.manifest.name,
        "manifest_sha256": bundle.manifest_sha256,
        "files": len(bundle.manifest.files),
        "bytes": sum(fact.bytes for fact in bundle.manifest.files.values()),
        "selftest": () if tested is None else tested.deviations,
        "not_tested": () if tested is None else tested.not_tested,
    }
    if certificate is not None:
        document["certificate"] = certificate
    if error is not None:
        document["error"] = {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
    return document
