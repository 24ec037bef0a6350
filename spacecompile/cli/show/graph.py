"""The lines of `spacecompile inspect` about one graph file: interface, operators, precisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from spacecompile.cli.show.layout import megabytes, row
from spacecompile.page.table import giga

if TYPE_CHECKING:
    from spacecompile.contract import Variant
    from spacecompile.export.onnx_facts.file_facts import GraphFacts, TensorFacts
    from spacecompile.runtime.bundle import Bundle

MISSING_READER = "graph facts need the package onnx; add it with: pip install 'spacecompile[compile]'"
_ISLANDS_SHOWN = 12


def graphs_of(bundle: Bundle, variants: Iterable[Variant]) -> dict[str, GraphFacts] | None:
    """Facts of every ONNX file, by variant; None where the package that reads them is not installed.

    Raises:
        IntegrityError: If a file differs from the manifest, or is no ONNX file.
    """
    if find_spec("onnx") is None:
        return None
    from spacecompile.export.onnx_facts.file_facts import graph_facts

    return {
        variant.name: graph_facts(bundle.read(variant.path)) for variant in variants if variant.path.endswith(".onnx")
    }


def graph_lines(name: str, facts: GraphFacts) -> list[str]:
    """What the file of one variant is.

    Args:
        name: Name of the variant.
        facts: What was read from the variant's file.
    """
    num_nodes = sum(facts.ops.values())
    weights = ", ".join(
        f"{kind} {facts.weight_shares[kind]:.1%} ({megabytes(num_bytes, 2)})"
        for kind, num_bytes in facts.weight_bytes.items()
    )
    return [
        row("graph", f"{name}: {num_nodes} nodes, opset {facts.opset}, {giga(facts.macs)} GMAC with all views"),
        row("", f"input {', '.join(map(_tensor, facts.inputs))}"),
        row("", f"outputs {', '.join(map(_tensor, facts.outputs))}"),
        row("", f"operators {_counts(facts.ops)}"),
        row("", f"weights {weights or 'none'}"),
        row("", f"multiply-adds {_shares(facts.mac_shares)}"),
        row("", f"nodes that multiply {_nodes_by_type(facts)}"),
        *_island_lines(facts),
        *(row("", f"not counted, its shape is unknown: {node}") for node in facts.uncounted),
    ]


def _island_lines(facts: GraphFacts) -> list[str]:
    shown = facts.islands[:_ISLANDS_SHOWN]
    lines = [
        row(
            "",
            f"float32 island at {island.first}: {_counts(island.ops)}, "
            f"{island.macs / facts.macs if facts.macs else 0:.2%} of the multiply-adds",
        )
        for island in shown
    ]
    if len(facts.islands) > len(shown):
        lines.append(row("", f"and {len(facts.islands) - len(shown)} more float32 islands; --json lists them"))
    return lines


def _nodes_by_type(facts: GraphFacts) -> str:
    by_op: dict[str, Counter[str]] = {}
    for node in facts.mac_nodes:
        by_op.setdefault(node.op, Counter())[node.type] += 1
    return "; ".join(f"{op}: {_counts(types)}" for op, types in sorted(by_op.items())) or "none"


def _tensor(tensor: TensorFacts) -> str:
    extents = ", ".join("?" if extent is None else str(extent) for extent in tensor.shape)
    return f"{tensor.name} {tensor.type} [{extents}]"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items()) or "none"
