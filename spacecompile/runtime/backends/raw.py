"""Any graph in an engine, timed as a whole or layer by layer: what sealed graphs are measured against.

A backend runs sealed graphs only. Peak rates and batches need others, with the very settings that the backend of the
same name has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from numpy.typing import NDArray

from spacecompile.contract import Precision
from spacecompile.errors import MissingPartError, UsageError

Feeds = Mapping[str, NDArray[Any]]
"""Input arrays by name."""


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """One layer of the graph as the engine runs it, in one run.

    Attributes:
        name: Name that the engine gives the layer.
        nodes: Names of the ONNX nodes that went into the layer, or of their outputs, as far as the engine tells.
        op: The engine's word for what the layer does.
        kernel: Routine that computes the layer; empty where the engine does not tell.
        precision: Precision that the layer computes in; empty where the engine does not tell.
        ms: Duration in milliseconds.
    """

    name: str
    nodes: tuple[str, ...]
    op: str
    kernel: str
    precision: str
    ms: float


class RawGraph(Protocol):
    """One graph in one engine. Used from one thread."""

    def run(self, feeds: Feeds) -> None:
        """Compute every output once.

        Args:
            feeds: Inputs of the shapes and types that the graph takes.

        Raises:
            IntegrityError: If the engine fails on the graph, for want of memory for example.
        """

    def layers(self) -> tuple[tuple[LayerTime, ...], ...]:
        """The layers of every run so far, in the order of execution; ends the graph's use.

        Raises:
            UsageError: If the graph was not opened with `profile`.
        """


_FACTORIES = {"onnxruntime": ("onnxruntime_raw", "OnnxRuntimeGraph"), "openvino": ("openvino_raw", "open_graph")}


def open_raw(
    backend: str, model_bytes: bytes, *, precision: Precision, threads: int, spinning: bool, profile: bool = False
) -> RawGraph:
    """Load any ONNX graph into an engine.

    Args:
        backend: Name of the engine.
        model_bytes: Content of a self-contained ONNX file.
        precision: Precision that the engine shall compute in, as for a variant.
        threads: Number of threads per operator.
        spinning: Whether idle threads wait busily, where the engine lets that be chosen.
        profile: Whether the time of every layer is noted; the run as a whole gets slower by that.

    Raises:
        UsageError: If the engine does not tell the times of its layers, or the settings are out of range.
        MissingPartError: If the engine is not here, or does not compute in that precision on this machine.
        IntegrityError: If the engine refuses the graph.
    """
    if backend not in _FACTORIES:
        raise UsageError(f"backend {backend} tells no times of layers; choose one of {', '.join(_FACTORIES)}.")
    module_name, name_in_it = _FACTORIES[backend]
    try:
        module = import_module(f"spacecompile.runtime.backends.{module_name}")
    except ImportError as error:
        raise MissingPartError(f"backend {backend} can't be imported: {error}. Run: spacecompile doctor") from error
    make: Callable[..., RawGraph] = getattr(module, name_in_it)
    return make(model_bytes, precision=precision, threads=threads, spinning=spinning, profile=profile)


def not_profiled() -> UsageError:
    """The error of a graph whose layers are asked for and were not timed."""
    return UsageError("the graph was opened without its profile. Open it with profile=True.")
