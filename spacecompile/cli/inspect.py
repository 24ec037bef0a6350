"""`spacecompile inspect`: what a bundle is, from its manifest and its graph files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spacecompile.cli import console
from spacecompile.cli.show.graph import MISSING_READER, graph_lines, graphs_of
from spacecompile.cli.show.layout import cost, megabytes, row, size
from spacecompile.cli.show.target import inspect_target
from spacecompile.record import printable

if TYPE_CHECKING:
    from spacecompile.benchmarks.cost.records import BudgetLine, BudgetReport
    from spacecompile.contract import Manifest, PassReport, Tolerance, Variant
    from spacecompile.export.onnx_facts.file_facts import GraphFacts
    from spacecompile.runtime.bundle import Bundle


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Bundle that `build` made.", show_default=False)],
    *,
    variant: Annotated[str | None, typer.Option(help="Only this one; all if not given.")] = None,
    target: Annotated[str | None, typer.Option(help="Say which nodes it would refuse instead: tensorrt.")] = None,
    json: Annotated[str | None, typer.Option("--json", help="Write the facts to FILE, or - for stdout.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the JSON file.")] = False,
) -> None:
    """Say what a bundle is: network, variants, costs, budgets, rewrites, origin, and what its graph files hold.

    Only the graph files are hashed, as they are read; `verify` hashes all. Their operators and precisions need the
    package onnx.

    Example: spacecompile inspect net.spacepkg --variant fp16
    """
    from spacecompile.benchmarks.cost.budget import check_budget
    from spacecompile.contract import Budget
    from spacecompile.runtime.bundle import open_bundle

    console.check_json(json, force=force, bundle=bundle)
    opened = open_bundle(bundle, verify=False)
    variants = opened.manifest.variants if variant is None else (opened.variant(variant),)
    if target is not None:
        inspect_target(opened, variants, target, json=json)
        return
    graphs = graphs_of(opened, variants)
    budget = check_budget(opened.manifest, Budget())
    if json is not None:
        facts = {
            "manifest_sha256": opened.manifest_sha256,
            "extra_files": opened.extra_files,
            "manifest": opened.manifest,
            "budget": budget.lines,
            "graphs": graphs,
            "graphs_note": MISSING_READER if graphs is None else None,
        }
        console.emit_json(facts, json)
    if json != "-":
        lines = [*_lines(opened, variants, budget), *_graph_lines(graphs)]
        console.print_result(printable("\n".join(lines)) + "\n")


def _lines(bundle: Bundle, variants: Sequence[Variant], budget: BudgetReport) -> list[str]:
    manifest = bundle.manifest
    return [
        row("bundle", f"{manifest.name}, manifest SHA-256 {bundle.manifest_sha256}"),
        row("source", f"{manifest.source_format}, SHA-256 {manifest.source_sha256}"),
        *_network_lines(manifest),
        *(_variant_line(manifest, variant) for variant in variants),
        *_cost_lines(manifest),
        *map(_budget_line, budget.lines),
        *(row("training", f"{name} {value}") for name, value in manifest.training.items()),
        row("tools", ", ".join(f"{name} {version}" for name, version in manifest.tools.items()) or "unknown"),
        *(row("licence", text) for text in manifest.licences),
        *(row("unlisted", path) for path in bundle.extra_files),
    ]


def _graph_lines(graphs: dict[str, GraphFacts] | None) -> list[str]:
    if graphs is None:
        return [row("graph", MISSING_READER)]
    return [line for name, facts in graphs.items() for line in graph_lines(name, facts)]


def _network_lines(manifest: Manifest) -> list[str]:
    spec = manifest.spec
    options = "".join(f", {name} {value}" for name, value in spec.decoder_options.items())
    return [
        row("network", f"{spec.architecture}, encoder {spec.encoder}{options}"),
        row("frame", f"{size(spec.frame_size_px)} px (height x width), resized to {size(spec.input_size_px)}"),
        row("normalise", f"mean {spec.mean}, std {spec.std}"),
        row("classes", ", ".join(spec.classes)),
        row("parts", f"thresholds {spec.part_thresholds}, upsampling {spec.mask_upsampling}"),
        row("box", f"threshold {spec.box.threshold}, margins {spec.box.margins_px} px"),
    ]


def _variant_line(manifest: Manifest, variant: Variant) -> str:
    tolerance = variant.tolerance
    return row(
        "variant",
        f"{variant.name}: {variant.path}, {megabytes(manifest.files[variant.path].bytes)}, opset {variant.opset}, "
        f"certified on {', '.join(variant.certified) or 'no backend'} to class agreement "
        f"{tolerance.class_agreement_min:.1%}, class probabilities {tolerance.class_probs_max:g}, parts IoU "
        f"{tolerance.parts_iou_min:g}{_further_limits(tolerance)}",
    )


def _further_limits(tolerance: Tolerance) -> str:
    mean = f", mean {tolerance.parts_iou_mean_min:g}" if tolerance.parts_iou_mean_min else ""
    share = f" on {tolerance.box_share_min:.0%} of the frames" if tolerance.box_share_min < 1 else ""
    worst = "" if tolerance.box_px_worst is None else f", {tolerance.box_px_worst:g} px on any"
    drop = "" if tolerance.score_drop_max is None else f", S_final drop {tolerance.score_drop_max:g}"
    sound = "" if tolerance.adversarial else ", adversarial frames only sound"
    return f"{mean}, box {tolerance.box_px_max:g} px{share}{worst}{drop}{sound}"


def _cost_lines(manifest: Manifest) -> list[str]:
    return [
        row("cost", f"{cost(manifest.cost_source)} in the checkpoint"),
        *map(_pass_line, manifest.rewrites),
        *([] if manifest.rewrites else [row("rewrite", "none ran")]),
        row("cost", cost(manifest.cost)),
    ]


def _pass_line(report: PassReport) -> str:
    if report.skipped:
        return row("rewrite", f"{report.name} was skipped: it {report.skipped}")
    if not report.changed:
        return row("rewrite", f"{report.name}: nothing to do")
    return row("rewrite", f"{report.name}: {cost(report.after)}, relative error {report.relative_error:.1e}")


def _budget_line(line: BudgetLine) -> str:
    verdict = f"{line.margin:.4g} {line.unit} left" if line.passed else f"exceeded by {-line.margin:.4g} {line.unit}"
    return row("budget", f"{line.label} {line.value:.4f} of {line.limit:g} {line.unit}, {verdict}")
