"""`spacecompile inspect --target`: would TensorRT take a bundle's graphs?"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from spacecompile.cli import console
from spacecompile.errors import BuildError, MissingPartError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spacecompile.contract import Variant
    from spacecompile.export.engine.legality_records import LegalityReport
    from spacecompile.runtime.bundle import Bundle

TARGETS = ("tensorrt",)


def inspect_target(bundle: Bundle, variants: Sequence[Variant], target: str, *, json: str | None) -> None:
    """Print which nodes of each of some variants TensorRT would refuse, before any build.

    The rules always judge; a TensorRT or TensorRT-RTX that is installed and can be used judges with them.

    Raises:
        UsageError: If the target is unknown.
        MissingPartError: If onnx is missing.
        BuildError: If a node would be refused; after everything was printed.
    """
    if target not in TARGETS:
        raise UsageError(f"--target is {target!r}; choose one of {', '.join(TARGETS)}.")
    if find_spec("onnx") is None:
        raise MissingPartError("inspect --target needs onnx, which this environment lacks. Run: pip install onnx")
    from spacecompile.export.engine.build_plan import refused_nodes
    from spacecompile.export.engine.legality import legality_of
    from spacecompile.runtime.cuda.engine_api import any_engine_api

    api = any_engine_api()
    reports: dict[str, LegalityReport] = {}
    for variant in variants:
        model_bytes = bundle.read(variant.path)
        reports[variant.name] = legality_of(
            model_bytes,
            parser_name=None if api is None else f"the parser of {api.title}",
            refused=() if api is None else refused_nodes(model_bytes, api),
        )
    num_illegal = sum(len(report.illegal) for report in reports.values())
    if json is not None:
        console.emit_json({"target": target, "legal": not num_illegal, "variants": reports}, json)
    if json != "-":
        console.print_result("\n".join(line for item in reports.items() for line in _lines(*item)) + "\n")
    if num_illegal:
        error = BuildError(
            f"{target} would refuse what is named above ({num_illegal} in all). Rebuild the bundle with another "
            "encoder or decoder, or run it with another backend."
        )
        error.has_document = json == "-"
        raise error


def _lines(variant: str, report: LegalityReport) -> list[str]:
    judges = ", ".join(report.checked_by)
    if not report.illegal:
        return [f"{variant}: legal: {report.nodes} nodes of {len(report.ops)} ops (judged by {judges})"]
    head = f"{variant}: {len(report.illegal)} of {report.nodes} nodes would be refused (judged by {judges})"
    rows = [f"  {problem.op or '(graph)':<20} {problem.node or '-':<30} {problem.reason}" for problem in report.illegal]
    return [head, *rows]
