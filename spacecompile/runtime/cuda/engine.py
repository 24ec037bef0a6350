"""What a GPU engine has to offer: a graph that can be queued on a stream, with its tensors at addresses of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

from spacecompile.contract import HEALTH_SIGNALS
from spacecompile.runtime.backend import GraphSignature


class EngineContext(Protocol):
    """The graph on one stream. Its outputs go to fixed addresses."""

    def bind_input(self, pointer: int) -> None:
        """Take the frame from another address from now on.

        Raises:
            DeviceError: If the engine refuses the address.
        """

    def enqueue(self) -> None:
        """Queue one run on the stream.

        Raises:
            DeviceError: If the engine says that it did not.
        """

    def close(self) -> None:
        """Free what it holds."""


class CudaEngine(Protocol):
    """One graph in one engine on one GPU."""

    @property
    def name(self) -> str:
        """Of the backend."""

    @property
    def version(self) -> str:
        """Of the library."""

    @property
    def signature(self) -> GraphSignature:
        """Of the graph."""

    @property
    def takes_any_address(self) -> bool:
        """Whether the frame may lie elsewhere from run to run. If not, a caller's frame is copied on the GPU."""

    @property
    def captures_itself(self) -> bool:
        """Whether the engine replays a CUDA graph of its own, which can't be part of one of ours."""

    @property
    def graph_problem(self) -> str:
        """Why the engine's own graph can't be used; empty if it can, or the engine has none."""

    def context(self, stream: int, addresses: Mapping[str, int]) -> EngineContext:
        """A context on a stream.

        Args:
            stream: That it queues on.
            addresses: Of the input and every output, by name.

        Raises:
            DeviceError: If it can't be made.
        """

    def close(self) -> None:
        """Free the graph. Its contexts are closed before."""


@dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """Name, numpy dtype and shape of one output of a sealed graph."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size in memory."""
        return prod(self.shape) * (1 if self.dtype == "uint8" else 4)


def output_layouts(signature: GraphSignature) -> tuple[TensorLayout, ...]:
    """The outputs of a sealed graph, in the order of `contract.OUTPUT_NAMES`."""
    return (
        TensorLayout(name="class_probs", dtype="float32", shape=(signature.num_classes,)),
        TensorLayout(name="parts", dtype="uint8", shape=signature.frame_size_px),
        TensorLayout(name="box_xyxy", dtype="float32", shape=(4,)),
        TensorLayout(name="health", dtype="float32", shape=(len(HEALTH_SIGNALS),)),
    )
