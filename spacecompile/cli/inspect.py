"""`spacecompile inspect`: what a bundle is, from its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacecompile.cli import console

if TYPE_CHECKING:
    from spacecompile.contract import Cost, Manifest
    from spacecompile.runtime.bundle import Bundle


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `build` made.", show_default=False)],
    *,
    json: Annotated[str | None, typer.Option("--json", help="Write the manifest to FILE, or - for stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the JSON file.")] = False,
) -> None:
    """Say what a bundle is: network, variants, sizes, costs, rewrites, origin. Hashes nothing; `verify` does."""
    from spacecompile.runtime.bundle import open_bundle

    console.check_json(json, force=force)
    opened = open_bundle(bundle, verify=False)
    if json is not None:
        facts = {"manifest_sha256": opened.manifest_sha256, "extra_files": opened.extra_files}
        console.emit_json(facts | {"manifest": opened.manifest}, json)
    if json != "-":
        console.print_result("\n".join(_lines(opened)) + "\n")


def _lines(bundle: Bundle) -> list[str]:
    manifest = bundle.manifest
    return [
        _row("bundle", f"{manifest.name}, manifest SHA-256 {bundle.manifest_sha256}"),
        _row("source", f"{manifest.source_format}, SHA-256 {manifest.source_sha256}"),
        *_network_lines(manifest),
        *_variant_lines(manifest),
        *_cost_lines(manifest),
        *(_row("training", f"{name} {value}") for name, value in manifest.training.items()),
        _row("tools", ", ".join(f"{name} {version}" for name, version in manifest.tools.items()) or "unknown"),
        *(_row("licence", text) for text in manifest.licences),
        *(_row("unlisted", path) for path in bundle.extra_files),
    ]


def _network_lines(manifest: Manifest) -> list[str]:
    spec = manifest.spec
    options = "".join(f", {name} {value}" for name, value in spec.decoder_options.items())
    return [
        _row("network", f"{spec.architecture}, encoder {spec.encoder}{options}"),
        _row("frame", f"{_size(spec.frame_size_px)} px (height x width), resized to {_size(spec.input_size_px)}"),
        _row("normalise", f"mean {spec.mean}, std {spec.std}"),
        _row("classes", ", ".join(spec.classes)),
        _row("parts", f"thresholds {spec.part_thresholds}, upsampling {spec.mask_upsampling}"),
        _row("box", f"threshold {spec.box.threshold}, margins {spec.box.margins_px} px"),
    ]


def _variant_lines(manifest: Manifest) -> list[str]:
    return [
        _row(
            "variant",
            f"{variant.name}: {variant.path}, {manifest.files[variant.path].bytes / 1e6:.1f} MB, "
            f"opset {variant.opset}, certified to class probabilities {variant.tolerance.class_probs_max:g}, "
            f"parts IoU {variant.tolerance.parts_iou_min:g}, box {variant.tolerance.box_px_max:g} px",
        )
        for variant in manifest.variants
    ]


def _cost_lines(manifest: Manifest) -> list[str]:
    steps = [
        _row("rewrite", f"{report.name}: {_cost(report.after)}, relative error {report.relative_error:.1e}")
        for report in manifest.rewrites
        if report.changed
    ]
    skipped = [
        _row("rewrite", f"{report.name} was skipped: it {report.skipped}")
        for report in manifest.rewrites
        if report.skipped
    ]
    return [
        _row("cost", f"{_cost(manifest.cost_source)} in the checkpoint"),
        *steps,
        *skipped,
        _row("cost", _cost(manifest.cost)),
    ]


def _cost(cost: Cost) -> str:
    macs = f"{cost.macs_fvcore / 1e9:.4f} GMAC (fvcore), {cost.macs_torch / 1e9:.4f} (torch)"
    return f"{cost.params / 1e6:.4f} M parameters, {macs}"


def _size(size_px: tuple[int, int]) -> str:
    return f"{size_px[0]}x{size_px[1]}"


def _row(title: str, text: str) -> str:
    return f"{title:<10} {text}"
