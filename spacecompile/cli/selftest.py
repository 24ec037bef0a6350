"""`spacecompile selftest`: does a bundle still answer as PyTorch did, here, on this machine?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from spacecompile.cli import console

if TYPE_CHECKING:
    from spacecompile.runtime.selftest import SelftestResult


def selftest(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `build` made.", show_default=False)],
    *,
    variant: Annotated[str | None, typer.Option(help="Only this one; all if not given.")] = None,
    backend: Annotated[str, typer.Option(help="Engine that runs the graphs.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; the usable physical cores if not given.")] = None,
    json: Annotated[str | None, typer.Option("--json", help="Write the result to FILE, or - for stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the JSON file.")] = False,
) -> None:
    """Run the bundle's own frames on this machine and compare with PyTorch's answers. Needs no torch.

    Every file that it reads is hashed first; `verify` hashes the others too. Exits with 7 when a file was changed, and
    with 5 when a variant misses its tolerance, and with 3 when none can be tested here. A variant that did not run on
    a backend is named with the reason.

    Example: spacecompile selftest net.spacepkg
    """
    from spacecompile.runtime.bundle import open_bundle
    from spacecompile.runtime.verify import selftest as test_bundle

    console.check_json(json, force=force, bundle=bundle)
    started_s = time.perf_counter()
    opened = open_bundle(bundle, verify=False)
    with console.progress_bar() as progress:
        result = test_bundle(opened, backend=backend, variant=variant, threads=threads, progress=progress)
    files = {path: opened.manifest.files[path].sha256 for path in result.files}
    console.say_line(f"manifest SHA-256 {opened.manifest_sha256}")
    console.say(f"{len(files)} of {len(opened.manifest.files)} files were read: every hash of these is right")
    say_selftest(result)
    console.say(f"tested in {time.perf_counter() - started_s:.1f} s")
    console.say_line(f"next: [bold]spacecompile predict {console.quoted(bundle)} IMAGES -o out[/]")
    if json is not None:
        document = {
            "bundle": opened.manifest.name,
            "manifest_sha256": opened.manifest_sha256,
            "files": files,
            "selftest": result.deviations,
            "not_tested": result.not_tested,
        }
        console.emit_json(document, json)


def say_selftest(result: SelftestResult) -> None:
    """One line per variant and backend, tested or not; `verify` shares it."""
    for deviation in result.deviations:
        console.say_line(
            f"self-test {escape(deviation.variant)} on {deviation.backend}: {deviation.frames} frames, same class on "
            f"{deviation.class_agreement:.1%}, class probabilities within {deviation.class_probs_max:.1e}, parts IoU "
            f">= {deviation.parts_iou_min:.6f}, mean {deviation.parts_iou_mean:.6f}, box within "
            f"{deviation.box_px_max:.3f} px, worst {deviation.box_px_worst:.3f} px"
        )
    for item in result.not_tested:
        console.say_line(
            f"[yellow]note[/] {escape(f'variant {item.variant} is not tested on {item.backend}: {item.reason}')}"
        )
