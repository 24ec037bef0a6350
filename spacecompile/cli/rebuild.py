"""`spacecompile rebuild`: TensorRT plans for this machine, tested and put into a bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from spacecompile.cli import console
from spacecompile.cli.flags.parse import names_from_text
from spacecompile.cli.show.layout import megabytes


def rebuild(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `build` made.", show_default=False)],
    *,
    engine: Annotated[
        str, typer.Option("--engine", help="Library that builds: tensorrt or tensorrt-rtx.")
    ] = "tensorrt",
    variant: Annotated[
        str | None,
        typer.Option(help="Names of the variants to build, a list with commas.", show_default="all with an ONNX file"),
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="Effort of the build.", show_default="the library's"),
    ] = None,
    json: Annotated[str | None, typer.Option("--json", help="Write the result to FILE, or - for stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the JSON file.")] = False,
) -> None:
    """Build plans of the bundle's ONNX files for this machine's GPU, test them, and swap them in.

    The plans have to answer the bundle's self-test like PyTorch first; until then, and after any failure, the bundle
    stays as it was. Earlier plans of the same variants and library go. The manifest is another one afterwards: who
    pinned its hash pins the new one. Exits with 3 without a GPU, with 4 when a plan can't be built, with 5 when its
    answers differ.

    Example: spacecompile rebuild net.spacepkg
    """
    from spacecompile.cli.selftest import say_selftest
    from spacecompile.export.engine.plan_facts import EngineOptions
    from spacecompile.export.engine.rebuild import buildable
    from spacecompile.export.engine.rebuild import rebuild as run_rebuild
    from spacecompile.runtime.bundle import open_bundle
    from spacecompile.runtime.cuda.engine_api import load_engine_api

    started_s = time.perf_counter()
    opened = open_bundle(bundle, verify=False)
    variants = buildable(opened, names_from_text(variant) if variant else ())
    console.check_json(json, force=force, bundle=bundle)
    api = load_engine_api(engine)
    with console.progress_bar() as progress:
        result = run_rebuild(
            opened,
            api,
            variants=variants,
            options=EngineOptions(optimization_level=optimization_level),
            progress=progress,
        )
    for name, facts in result.plans.items():
        console.say_line(f"{name}: {megabytes(facts.plan_bytes)} with {api.title} for {facts.target}")
    say_selftest(result.selftest)
    if result.removed:
        console.say_line(f"removed: {', '.join(result.removed)}")
    console.say_line(f"manifest SHA-256 {result.manifest_sha256}, before {opened.manifest_sha256}")
    console.say(f"rebuilt in {time.perf_counter() - started_s:.1f} s")
    console.say_line(f"next: [bold]spacecompile bench {console.quoted(bundle)} --backend {engine}[/]")
    if json is not None:
        document = {
            "engine": engine,
            "library_version": api.version,
            "manifest_sha256": result.manifest_sha256,
            "plans": result.plans,
            "removed": result.removed,
            "selftest": result.selftest.deviations,
        }
        console.emit_json(document, json)
