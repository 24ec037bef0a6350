"""Any graph in ONNX Runtime, with the settings of `onnxruntime_`, timed by its own profiler."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from spacecompile.contract import Precision
from spacecompile.runtime.backends.onnxruntime_ import ORT_ERRORS, failed_run, open_on_cpu
from spacecompile.runtime.backends.raw import Feeds, LayerTime, not_profiled

_US_PER_MS = 1000.0

# What ONNX Runtime's optimiser appends (1.32) to the name of a node that it changes, or to that of its output.
_SUFFIX = re.compile(r"(?:_nchwc|_token_\d+|/\w+/?)+$")
# In front of the tensor's name where it computes in float32 what a file holds in fp16.
_PREFIX = "InsertedPrecisionFreeCast_"
_EVENT_SUFFIX = "_kernel_time"


class OnnxRuntimeGraph:
    """One graph in one session."""

    def __init__(
        self, model_bytes: bytes, *, precision: Precision, threads: int, spinning: bool, profile: bool
    ) -> None:
        """Load a graph; see `raw.open_raw`."""
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spacecompile-profile-")) if profile else ""
            self._session = open_on_cpu(
                model_bytes,
                precision=precision,
                threads=threads,
                spinning=spinning,
                profile_path=Path(folder) / "run" if folder else None,
            )
            self._folder = stack.pop_all() if folder else None

    def run(self, feeds: Feeds) -> None:
        """Compute every output once; see `raw.RawGraph`."""
        try:
            self._session.run(None, dict(feeds))
        except ORT_ERRORS as error:
            raise failed_run(error) from error

    def layers(self) -> tuple[tuple[LayerTime, ...], ...]:
        """The layers of every run; see `raw.RawGraph`."""
        if self._folder is None:
            raise not_profiled()
        with self._folder:
            path = Path(self._session.end_profiling())
            events = json.loads(path.read_text(encoding="utf-8"))
        self._folder = None
        return _runs_from_events(events)


def _runs_from_events(events: list[dict[str, Any]]) -> tuple[tuple[LayerTime, ...], ...]:
    """The layers of every run from the events of ONNX Runtime's profile (Chrome's trace format, microseconds)."""
    spans = [(event["ts"], event["ts"] + event["dur"]) for event in events if event.get("name") == "model_run"]
    kernels = list(_kernels(events))
    return tuple(tuple(layer for start, layer in kernels if begin <= start <= end) for begin, end in sorted(spans))


def _kernels(events: list[dict[str, Any]]) -> Iterator[tuple[float, LayerTime]]:
    """Start and layer of every kernel, in order of the start."""
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
