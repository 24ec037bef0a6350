"""Any graph in OpenVINO, with the settings of `openvino_`, timed by its own performance counters."""

from __future__ import annotations

from typing import Any

from spacecompile.contract import Precision
from spacecompile.runtime.backends.openvino_ import compile_config, compile_graph, failed_run
from spacecompile.runtime.backends.openvino_import import openvino_core
from spacecompile.runtime.backends.raw import Feeds, LayerTime, RawGraph, not_profiled

_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
# Not computed at run time, or nothing but a name for memory.
_IDLE = frozenset({"Parameter", "Input", "Output", "Result", "Constant"})


def open_graph(
    model_bytes: bytes,
    *,
    precision: Precision,
    threads: int,
    spinning: bool,  # noqa: ARG001  OpenVINO has no such switch
    profile: bool,
) -> RawGraph:
    """Load a graph; see `raw.open_raw`."""
    config = compile_config(precision, threads) | ({"PERF_COUNT": True} if profile else {})
    return _OpenVinoGraph(compile_graph(openvino_core(), model_bytes, config), profile=profile)


class _OpenVinoGraph:
    """One graph in one compiled model."""

    def __init__(self, compiled: Any, *, profile: bool) -> None:
        """Take over OpenVINO's compiled model."""
        self._request = compiled.create_infer_request()
        self._facts = _facts_by_layer(compiled) if profile else None
        self._runs: list[tuple[LayerTime, ...]] = []

    def run(self, feeds: Feeds) -> None:
        """Compute every output once; see `raw.RawGraph`."""
        try:
            for name, value in feeds.items():
                self._request.get_tensor(name).data[:] = value
            self._request.infer()
        except RuntimeError as error:
            raise failed_run(error) from error
        if self._facts is not None:
            self._runs.append(_layers_from_counters(self._request.get_profiling_info(), self._facts))

    def layers(self) -> tuple[tuple[LayerTime, ...], ...]:
        """The layers of every run; see `raw.RawGraph`."""
        if self._facts is None:
            raise not_profiled()
        return tuple(self._runs)


def _layers_from_counters(counters: Any, facts: dict[str, dict[str, str]]) -> tuple[LayerTime, ...]:
    """The layers of one run, from OpenVINO's `ProfilingInfo` objects and `_facts_by_layer`."""
    return tuple(
        LayerTime(
            name=counter.node_name,
            nodes=tuple(filter(None, facts.get(counter.node_name, {}).get("originalLayersNames", "").split(","))),
            op=counter.node_type,
            kernel=counter.exec_type,
            precision=_precision(facts.get(counter.node_name, {}).get("runtimePrecision", "")),
            ms=1000 * counter.real_time.total_seconds(),
        )
        for counter in counters
        if counter.node_type not in _IDLE and counter.real_time.total_seconds() > 0
    )


def _facts_by_layer(compiled: Any) -> dict[str, dict[str, str]]:
    """What the compiled model tells of every layer, by the layer's name."""
    return {
        node.get_friendly_name(): {key: str(fact.value) for key, fact in node.get_rt_info().items()}
        for node in compiled.get_runtime_model().get_ops()
    }


def _precision(runtime_precision: str) -> str:
    return _PRECISIONS.get(runtime_precision, runtime_precision)
