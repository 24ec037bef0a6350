"""`spacecompile verify`: is a bundle whole, and does it still answer as PyTorch did?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacecompile.cli import console

if TYPE_CHECKING:
    from spacecompile.runtime.selftest import VariantDeviation


def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `build` made.", show_default=False)],
    *,
    selftest: Annotated[bool, typer.Option("--selftest/--no-selftest", help="Run the self-test frames.")] = True,
    backend: Annotated[str, typer.Option(help="Engine that runs the graphs.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; the usable physical cores if not given.")] = None,
    json: Annotated[str | None, typer.Option("--json", help="Write the result to FILE, or - for stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the JSON file.")] = False,
) -> None:
    """Check every file of a bundle against its manifest, then run its self-test on this machine. Needs no torch.

    Exits with 7 when a file was changed, is missing or was added, and with 5 when a variant misses its tolerance.
    """
    from spacecompile.runtime.bundle import open_bundle
    from spacecompile.runtime.selftest import run_selftest

    console.check_json(json, force=force)
    started_s = time.perf_counter()
    opened = open_bundle(bundle, verify=False)
    deviations: list[VariantDeviation] = []
    with console.progress_bar() as progress:
        opened.verify_all(progress=progress)
        if selftest:
            deviations = run_selftest(opened, backend=backend, threads=threads, progress=progress)
    total_bytes = sum(fact.bytes for fact in opened.manifest.files.values())
    console.say(f"manifest SHA-256 {opened.manifest_sha256}")
    console.say(f"{len(opened.manifest.files)} files, {total_bytes / 1e6:.1f} MB: every hash is right")
    for deviation in deviations:
        console.say(
            f"{deviation.variant} on {deviation.backend}: {deviation.frames} frames, class probabilities within "
            f"{deviation.class_probs_max:.1e}, parts IoU >= {deviation.parts_iou_min:.5f}, box within "
            f"{deviation.box_px_max:.3f} px"
        )
    console.say(f"verified in {time.perf_counter() - started_s:.1f} s")
    console.say(f"next: [bold]spacecompile predict {console.quoted(bundle)} IMAGES -o out[/]")
    if json is not None:
        document = {
            "bundle": opened.manifest.name,
            "manifest_sha256": opened.manifest_sha256,
            "files": len(opened.manifest.files),
            "bytes": total_bytes,
            "selftest": deviations,
        }
        console.emit_json(document, json)
