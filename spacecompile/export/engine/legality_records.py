"""The records of the legality report. Apart from the rules, which need onnx: a target that builds engines has none."""

from __future__ import annotations

from spacecompile.record import Record


class IllegalNode(Record):
    """One node, tensor or graph that TensorRT would refuse.

    Attributes:
        op: Operator of the node; empty when the trouble is not that of a node.
        node: Name of the node; may be empty, as ONNX allows.
        reason: End of the sentence that begins with the node and says what is wrong.
    """

    op: str
    node: str
    reason: str

    def __str__(self) -> str:
        """The whole sentence, without a full stop."""
        return f"{self.op} {self.node!r} {self.reason}" if self.op else self.reason


class LegalityReport(Record):
    """Whether TensorRT takes one graph.

    Attributes:
        checked_by: Judges: `rules`, and the parser of each library that was asked.
        nodes: Number of nodes in the graph.
        ops: Number of nodes per operator, the most frequent first.
        illegal: Nodes and facts of the graph that would be refused; empty for a legal graph.
    """

    checked_by: tuple[str, ...]
    nodes: int
    ops: dict[str, int]
    illegal: tuple[IllegalNode, ...]
