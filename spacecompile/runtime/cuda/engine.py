"""What a GPU engine has to offer: a graph that can be queued on a stream, with its tensors at addresses of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from spacecompile.runtime.backend import Engine


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
            DeviceError: If the engine says that it did not queue the run.
        """

    def close(self) -> None:
        """Free what the context holds."""


class CudaEngine(Engine, Protocol):
    """One graph in one engine on one GPU. Its contexts are closed before it."""

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
            stream: Handle of the stream that the context queues its runs on.
            addresses: Addresses of the input and every output, by name.

        Raises:
            DeviceError: If the context can't be made.
        """
