"""`spacecompile engine`: TensorRT plans of a bundle's graphs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacecompile.cli import console
from spacecompile.cli.flags.parse import names_from_text
from spacecompile.cli.show.layout import megabytes
from spacecompile.errors import BuildError, OutputError, UsageError
from spacecompile.files import check_destination, write_file

if TYPE_CHECKING:
    from spacecompile.contract import Variant
    from spacecompile.export.engine.plan_facts import EngineFacts, EngineOptions
    from spacecompile.runtime.bundle import Bundle
    from spacecompile.runtime.cuda.engine_api import EngineApi

_MIB = 1 << 20
_BUILT = partial(typer.Option, rich_help_panel="How plans are built")


def engine(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `build` made.", show_default=False)],
    *,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the plans, one folder each.", show_default=False)
    ],
    engine: Annotated[str, typer.Option("--engine", help="Library that builds: tensorrt or tensorrt-rtx.")],
    variant: Annotated[
        str | None, typer.Option(help="Names of the variants to build, a list with commas.", show_default="all")
    ] = None,
    workspace_mb: Annotated[
        int | None, _BUILT(min=1, help="Scratch memory in MiB that a layer may use.", show_default="all")
    ] = None,
    optimization_level: Annotated[
        int | None,
        _BUILT(min=0, max=5, metavar="N", help="Effort of the build.", show_default="the library's"),
    ] = None,
    timing_cache: Annotated[
        Path | None, _BUILT(help="File that keeps measured timings between builds; tensorrt only.")
    ] = None,
    version_compatible: Annotated[
        bool, _BUILT("--version-compatible", help="Build plans that later minor versions run too; tensorrt only.")
    ] = False,
    hardware_compatible: Annotated[
        bool, _BUILT("--hardware-compatible", help="Build plans for every Ampere or later GPU; tensorrt only.")
    ] = False,
    compute_capability: Annotated[
        str | None, _BUILT(help="GPUs to build for, for example 8.6,8.9; tensorrt-rtx only.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace plans and a JSON file that are there.")] = False,
    json: Annotated[str | None, typer.Option("--json", help="Write the plans' facts to FILE, or - for stdout.")] = None,
) -> None:
    """Build TensorRT plans from the verified ONNX files of a bundle.

    Full TensorRT builds for the GPU of this machine; TensorRT-RTX needs none. Plans stay outside the bundle: nothing
    has run them yet, so they are not certified.

    Example: spacecompile engine net.spacepkg -o plans --engine tensorrt-rtx
    """
    from spacecompile.export.engine.options import check_options
    from spacecompile.export.engine.plan_facts import EngineOptions
    from spacecompile.runtime.bundle import open_bundle
    from spacecompile.runtime.cuda.engine_api import load_engine_api

    options = EngineOptions(
        workspace_bytes=None if workspace_mb is None else workspace_mb * _MIB,
        optimization_level=optimization_level,
        version_compatible=version_compatible,
        hardware_compatibility="ampere-plus" if hardware_compatible else "none",
        compute_capabilities=names_from_text(compute_capability) if compute_capability else (),
    )
    opened = open_bundle(bundle, verify=False)
    variants, left_out = _variants(opened, variant)
    console.check_json(json, force=force)
    _check_outside(bundle, {"--output": output, "--timing-cache": timing_cache, "--json": _file_of(json)})
    if timing_cache is not None:
        check_destination(timing_cache, flag="--timing-cache", force=True)
    api = load_engine_api(engine)
    check_options(api, options, timing_cache=timing_cache is not None)
    if left_out:
        console.say_plain(f"left out: {', '.join(left_out)}, the fp32 file rounded to bf16 by another engine")
    facts = _build_all(opened, variants, api, options, output=output, timing_cache=timing_cache, force=force)
    console.say_plain(
        "not certified: nothing has run these plans, and PyTorch's answers were not compared with theirs; "
        "what is certified is the ONNX file that each was built from"
    )
    if json is not None:
        console.emit_json({"engine": engine, "library_version": api.version, "plans": facts}, json)


def _variants(bundle: Bundle, names: str | None) -> tuple[list[Variant], list[str]]:
    """Variants to build, and names of those left out: bf16 ones have no file of their own."""
    if names is None:
        able = [it for it in bundle.manifest.variants if it.precision != "bf16" and it.path.endswith(".onnx")]
        left_out = [variant.name for variant in bundle.manifest.variants if variant.precision == "bf16"]
        if not able:
            raise UsageError(
                f"{bundle.root} has only {', '.join(left_out)}: the fp32 file, run by an engine that rounds to bf16, "
                "which TensorRT does not. Build it with --precision fp32 or fp16."
            )
        return able, left_out
    asked = names_from_text(names)
    if not all(asked):
        raise UsageError(f"--variant is {names!r}, with an empty name in it; it has {bundle.variant_names()}.")
    variants = [bundle.variant(name) for name in dict.fromkeys(asked)]
    for variant in variants:
        if not variant.path.endswith(".onnx"):
            raise UsageError(f"variant {variant.name} is a plan already. Name the variant that it was made of.")
        if variant.precision == "bf16":
            raise UsageError(
                f"variant {variant.name} is the fp32 file, run by an engine that rounds to bf16; TensorRT keeps the "
                "types of the file. Name an fp32 or fp16 variant."
            )
    return variants, []


def _file_of(json: str | None) -> Path | None:
    return None if json in (None, "-") else Path(json)


def _check_outside(bundle: Path, destinations: Mapping[str, Path | None]) -> None:
    """Refuse to write into the bundle, by flag."""
    root = bundle.resolve()
    for flag, path in destinations.items():
        if path is not None and root in (path.resolve(), *path.resolve().parents):
            raise OutputError(
                f"{flag} {path} lies in the bundle, which only holds what was certified. Choose another place."
            )


def _build_all(
    bundle: Bundle,
    variants: list[Variant],
    api: EngineApi,
    options: EngineOptions,
    *,
    output: Path,
    timing_cache: Path | None,
    force: bool,
) -> dict[str, EngineFacts]:
    """Facts by folder of plans built one after the other; those that are written stay when a later one fails."""
    from spacecompile.export.engine.build_plan import build_engine
    from spacecompile.export.engine.options import target_of
    from spacecompile.export.engine.plan_facts import require_precision
    from spacecompile.export.engine.writer import check_engine_folder, write_engine

    target = target_of(api, options)
    folders = {variant.name: output / f"{api.kind}-{variant.name}-{target}" for variant in variants}
    for folder in folders.values():
        check_engine_folder(folder, force=force)
    console.say_plain(f"{api.title}: {', '.join(folders)} for {target} -> {output}")
    facts = {}
    with console.progress_bar() as progress:
        for variant in variants:
            started_s = time.perf_counter()
            model_bytes = bundle.read(variant.path)
            _check_rules(model_bytes, variant.name)
            built = build_engine(
                model_bytes,
                api,
                options=options,
                timing_cache=_timings(timing_cache),
                step=f"engine {variant.name}",
                progress=progress,
            )
            require_precision(built.facts.types, variant.precision, variant=variant.name)
            folder = folders[variant.name]
            write_engine(folder, built)
            if timing_cache is not None and built.timing_cache is not None:
                write_file(timing_cache, built.timing_cache, remedy="Choose another file with --timing-cache.")
            facts[str(folder)] = built.facts
            _say_plan(folder, built.facts, time.perf_counter() - started_s)
    return facts


def _timings(path: Path | None) -> bytes | None:
    """What an earlier build measured: empty when there was none, None when nothing is kept."""
    if path is None:
        return None
    return path.read_bytes() if path.exists() else b""


def _check_rules(model_bytes: bytes, name: str) -> None:
    """Name the nodes that no builder takes, where onnx is there to read them: some crash it."""
    if find_spec("onnx") is None:
        return
    from spacecompile.export.engine.legality import legality_of

    illegal = legality_of(model_bytes).illegal
    if illegal:
        raise BuildError(
            f"TensorRT would refuse variant {name}: {illegal[0]}. "
            "`spacecompile inspect BUNDLE --target tensorrt` lists them."
        )


def _say_plan(folder: Path, facts: EngineFacts, seconds: float) -> None:
    shares = ", ".join(f"{share:.0%} {name}" for name, share in facts.types.compute_shares.items())
    console.say_plain(
        f"  {folder}: {megabytes(facts.plan_bytes)} in {seconds:.1f} s, convolutions and matrix products {shares}"
    )
