"""From a sealed graph to the bytes of a self-contained ONNX file: trace, simplify, clean, check.

The bytes depend on the weights, the spec and the versions of the tools, on nothing else.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence

import onnx
import onnxsim
import torch
from onnx import ModelProto, NodeProto
from torch import nn

from spacecompile._version import __version__
from spacecompile.contract import INPUT_NAME, OUTPUT_NAMES
from spacecompile.errors import BuildError, first_line_of
from spacecompile.export.engine.legality import illegal_nodes
from spacecompile.export.sealed.pooling import pool_extrema

OPSET = 20
"""Version of the ONNX operators: the first with a Gelu; TensorRT reads up to 23, ONNX Runtime 1.20 up to 21."""

logger = logging.getLogger(__name__)


def export_onnx(
    graph: nn.Module, frame_size_px: tuple[int, int], *, facts: Mapping[str, str], opset: int = OPSET
) -> bytes:
    """Export a sealed graph to the bytes of a file: `export_model`, then `model_bytes`; see there."""
    return model_bytes(export_model(graph, frame_size_px, opset=opset), facts)


def export_model(graph: nn.Module, frame_size_px: tuple[int, int], *, opset: int = OPSET) -> ModelProto:
    """Trace, simplify and clean a sealed graph.

    Args:
        graph: Sealed graph in evaluation mode.
        frame_size_px: Size of the frame as (height, width).
        opset: Version of the ONNX operators.

    Returns:
        A float32 graph with inferred types and shapes, every node under a name of its own.

    Raises:
        BuildError: If the exporter or the simplifier fails.
    """
    return _cleaned(_simplified(_traced(graph, frame_size_px, opset)))


def model_bytes(model: ModelProto, facts: Mapping[str, str]) -> bytes:
    """The content of a file, after every check.

    Args:
        model: Graph with inferred types and shapes; it gets the facts.
        facts: Metadata of the file.

    Returns:
        A whole ONNX file, weights included.

    Raises:
        BuildError: If the graph breaks a rule of `engine.legality`, or is no valid ONNX.
    """
    onnx.helper.set_model_props(model, dict(facts))
    problems = illegal_nodes(model)
    if problems:
        raise BuildError(
            f"the exported graph breaks {len(problems)} rules of portable graphs: {'; '.join(map(str, problems[:5]))}. "
            "This encoder or decoder needs a rewrite before it compiles; report it with the checkpoint's spec."
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(f"onnx.checker refuses the exported graph: {first_line_of(error)}.") from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _traced(graph: nn.Module, frame_size_px: tuple[int, int], opset: int) -> ModelProto:
    frame_HWC = torch.zeros(*frame_size_px, 3, dtype=torch.uint8)
    # The exporter prints its progress, which belongs into the log.
    talk = io.StringIO()
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(talk):
            # The exporter warns about its own internals (deprecated torch and copyreg uses), nothing a user can act on.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                (frame_HWC,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=list(OUTPUT_NAMES),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise BuildError(
            f"torch's exporter can't trace this network: {first_line_of(error)}. Run with -vv for the whole report."
        ) from error
    finally:
        logger.debug("exporter: %s", talk.getvalue())
    if program is None:
        raise BuildError(f"torch {torch.__version__} returned no ONNX program. Install the pinned torch.")
    return program.model_proto


def _simplified(model: ModelProto) -> ModelProto:
    try:
        simplified: ModelProto
        simplified, same = onnxsim.simplify(model)
    except (RuntimeError, ValueError) as error:
        raise BuildError(
            f"onnxsim can't simplify the graph: {first_line_of(error)}. Install the pinned onnxsim."
        ) from error
    if not same:
        raise BuildError("onnxsim changed what the graph computes. Install the pinned onnxsim.")
    return simplified


def _cleaned(model: ModelProto) -> ModelProto:
    """Drop what the exporter noted about this machine (stack traces, paths), pool extrema, infer shapes, name nodes."""
    graph = model.graph
    model.producer_name, model.producer_version, model.doc_string = "spacecompile", __version__, ""
    graph.name, graph.doc_string = "sealed", ""
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
        noted.doc_string = ""
    # onnxsim leaves shapes of tensors that it has fused away.
    del graph.value_info[:]
    model = _inferred(model)
    pool_extrema(model)
    _name_nodes(model.graph.node)
    return _inferred(model)


def _inferred(model: ModelProto) -> ModelProto:
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def _name_nodes(nodes: Sequence[NodeProto]) -> None:
    """Precisions speak of nodes by name, and the simplifier leaves some without one."""
    taken: set[str] = set()
    for node in nodes:
        if not node.name or node.name in taken:
            node.name = f"{node.op_type} of {node.output[0]}"
        taken.add(node.name)
