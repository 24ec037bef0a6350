"""Any graph in ONNX Runtime, with the settings of `onnxruntime_`, timed by its own profiler."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spacecompile.contract import Precision
from spacecompile.errors import IntegrityError, UsageError
from spacecompile.runtime.backends.onnxruntime_ import ORT_ERRORS, failed_run, first_line, ort, session_options
from spacecompile.runtime.backends.raw import Feeds, LayerTime

_US_PER_MS = 1000.0

# What ONNX Runtime's optimiser appends (1.32) to the name of a node that it changes, or to that of its output.
_SUFFIX = re.compile(r"(?:_nchwc|_token_\d+|/\w+/?)+$")
# In front of the tensor's name where it computes in float32 what a file holds in fp16.
_PREFIX = "InsertedPrecisionFreeCast_"
_EVENT_SUFFIX = "_kernel_time"


def open_graph(
    model_bytes: bytes, *, precision: Precision, threads: int, spinning: bool, profile: bool
) -> OnnxRuntimeGraph:
    """Load a graph; see `raw.open_raw`."""
    if precision == "bf16":
        raise UsageError("ONNX Runtime's CPU provider does not compute in bf16. Choose backend openvino.")
    return OnnxRuntimeGraph(model_bytes, threads=threads, spinning=spinning, profile=profile)


class OnnxRuntimeGraph:
    """One graph in one session."""

    def __init__(self, model_bytes: bytes, *, threads: int, spinning: bool, profile: bool) -> None:
        """Parse and optimise the graph.

        Raises:
            IntegrityError: If ONNX Runtime refuses it.
        """
        options = session_options(threads, spinning)
        self._folder = tempfile.TemporaryDirectory(prefix="spacecompile-profile-") if profile else None
        if self._folder is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._folder.name) / "run")
        try:
            self._session = ort.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
        except ORT_ERRORS as error:
            raise IntegrityError(f"ONNX Runtime {ort.__version__} refuses the graph: {first_line(error)}") from error

    def run(self, feeds: Feeds) -> None:
        """Compute every output once; see `raw.RawGraph`."""
        try:
            self._session.run(None, dict(feeds))
        except ORT_ERRORS as error:
            raise failed_run(error) from error

    def layers(self) -> tuple[tuple[LayerTime, ...], ...]:
        """The layers of every run; see `raw.RawGraph`."""
        if self._folder is None:
            raise UsageError("the graph was opened without its profile. Open it with profile=True.")
        with self._folder:
            path = Path(self._session.end_profiling())
            events = json.loads(path.read_text(encoding="utf-8"))
        self._folder = None
        return runs_from_events(events)


def runs_from_events(events: list[dict[str, Any]]) -> tuple[tuple[LayerTime, ...], ...]:
    """The layers of every run from the events of ONNX Runtime's profile (Chrome's trace format, microseconds).

    Args:
        events: The whole file.
    """
    spans = [(event["ts"], event["ts"] + event["dur"]) for event in events if event.get("name") == "model_run"]
    kernels = list(_kernels(events))
    return tuple(tuple(layer for start, layer in kernels if begin <= start <= end) for begin, end in sorted(spans))


def _kernels(events: list[dict[str, Any]]) -> Iterator[tuple[float, LayerTime]]:
    for event in sorted(events, key=lambda event: float(event.get("ts", 0))):
        name = str(event.get("name"))
        if event.get("cat") == "Node" and name.endswith(_EVENT_SUFFIX):
            name = name.removesuffix(_EVENT_SUFFIX)
            op = str(event["args"]["op_name"])
            layer = LayerTime(
                name=name, nodes=_nodes(name, op), op=op, kernel="", precision="", ms=event["dur"] / _US_PER_MS
            )
            yield float(event["ts"]), layer


def _nodes(name: str, op: str) -> tuple[str, ...]:
    """The name of the layer, and that of the node or tensor it was made from where the optimiser renamed it."""
    short = _SUFFIX.sub("", name)
    # The casts themselves bear the prefix too, and are none of the file's nodes.
    return tuple(dict.fromkeys((name, short if op == "Cast" else short.removeprefix(_PREFIX))))
