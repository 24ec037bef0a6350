"""What a backend is: the protocol that every engine's adapter fulfils, and what passes through it.

Layout legend: H, W frame rows and columns; C channels (RGB); L classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Protocol, final

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import HEALTH_SIGNALS, INPUT_NAME, OUTPUT_NAMES
from spacecompile.errors import IntegrityError, UsageError


@dataclass(frozen=True, kw_only=True, eq=False)
class RawAnswer:
    """The outputs of one run, unchecked. The caller owns the arrays: no later run writes to them.

    Attributes:
        class_probs_L: float32 probabilities in the order of the spec's classes.
        parts_HW: uint8 mask, bit 0 body, bit 1 panel.
        box_xyxy: float32 [4], half-open, in frame pixels; all zero without a box.
        health: float32 values in the order of `contract.HEALTH_SIGNALS`.
    """

    class_probs_L: NDArray[np.float32]
    parts_HW: NDArray[np.uint8]
    box_xyxy: NDArray[np.float32]
    health: NDArray[np.float32]


class DeviceParts(Protocol):
    """A parts mask, uint8 [H, W], in GPU memory that the engine uses again after `release`."""

    @property
    def pointer(self) -> int:
        """Address of the first pixel."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in frame pixels."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3 of the interface by which torch, cupy and numba take the mask in place."""

    def to_host(self) -> NDArray[np.uint8]:
        """A copy in host memory, the caller's own."""

    def release(self) -> None:
        """Give the memory back. Releasing twice is harmless."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceRawAnswer:
    """The outputs of one run as in `RawAnswer`, with the parts mask left on the GPU."""

    class_probs_L: NDArray[np.float32]
    parts: DeviceParts
    box_xyxy: NDArray[np.float32]
    health: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class GraphSignature:
    """What differs between the inputs and outputs of two sealed graphs.

    Attributes:
        frame_size_px: (height, width) of the frame that the graph takes.
        num_classes: Length of the class probabilities.
    """

    frame_size_px: tuple[int, int]
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class GraphTensor:
    """One input or output of a graph.

    Attributes:
        name: Name in the graph.
        dtype: Name of the numpy type; the engine's own name where numpy has no such type.
        shape: Extents; -1 for an extent that is not fixed.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size in memory, where every extent is fixed."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """What a backend on a GPU is told beside the graph; the others ignore it.

    Attributes:
        device_index: Index of the GPU among those that CUDA_VISIBLE_DEVICES leaves.
        in_flight: Number of frames that may be in flight at the same time, each on a stream of its own.
        sidecar: Content of the file that the bundle holds beside a plan; None for a graph that has none.
        bundle: Folder of the bundle, as a command line would name it.
        frame_size_px: (height, width) of the bundle's frames.
        timed: Whether the GPU's clock times every run, for measurements; it costs a few events per run.
    """

    device_index: int = 0
    in_flight: int = 1
    sidecar: bytes | None = None
    bundle: str = "BUNDLE"
    frame_size_px: tuple[int, int] = (0, 0)
    timed: bool = False


class GpuTimes(NamedTuple):
    """Duration of one run by the GPU's own clock, from CUDA events around it.

    Attributes:
        engine_ms: Duration of the graph alone.
        device_ms: Duration of the graph, the copy of the frame to it and the copy of the answer from it.
    """

    engine_ms: float
    device_ms: float


class RawTicket(Protocol):
    """One frame that was handed to a backend. Dropping it without asking for its result is harmless."""

    @property
    def at_once(self) -> RawAnswer | None:
        """The answer that came with the ticket; None for a frame that is in flight."""

    @property
    def failed_frame_HWC(self) -> NDArray[np.uint8] | None:
        """The frame, for another engine, once `result` has raised a `DeviceError`; None for one that was on the GPU."""

    def is_done(self) -> bool:
        """Whether `result` would return or raise without waiting."""

    def result(self) -> RawAnswer | DeviceRawAnswer:
        """Wait for the answer. Asking again gives the same one, or the same error.

        Raises:
            DeviceError: If the frame's work failed.
            UsageError: If the backend was closed before.
        """


@dataclass(frozen=True)
class _FinishedTicket:
    """A `RawTicket` whose frame was answered before it was made."""

    at_once: RawAnswer
    failed_frame_HWC = None

    def is_done(self) -> bool:
        """True: there is nothing to wait for."""
        return True

    def result(self) -> RawAnswer:
        """The answer."""
        return self.at_once


class Engine(Protocol):
    """One graph, loaded."""

    @property
    def name(self) -> str:
        """Name of the backend, for example `onnxruntime`."""

    @property
    def version(self) -> str:
        """Version of the engine's library."""

    @property
    def signature(self) -> GraphSignature:
        """Signature of the graph."""

    def close(self) -> None:
        """Free the engine's memory. Closing twice is harmless."""


class Backend(Engine, Protocol):
    """An engine that takes frames and gives answers. Used from one thread at a time."""

    @property
    def takes_device_frames(self) -> bool:
        """Whether `submit` takes a frame in GPU memory, and can leave the parts mask there."""

    @property
    def in_flight_max(self) -> int:
        """Number of frames that may be in flight; 1 for a backend that answers at once."""

    @property
    def graphs(self) -> str:
        """How runs are queued on a GPU, for a person: with CUDA graphs, or why without; empty on a CPU."""

    @property
    def last_times(self) -> GpuTimes | None:
        """Times of the frame whose result was taken last; None where no GPU's clock times the runs."""

    def run(self, frame_HWC: NDArray[np.uint8]) -> RawAnswer:
        """Answer one frame.

        Args:
            frame_HWC: C-contiguous RGB frame of the graph's size.

        Raises:
            FrameError: If the frame does not fit the graph.
            IntegrityError: If the engine fails on the graph.
            DeviceError: If the GPU fails.
        """

    def submit(self, frame: object, *, parts_on_device: bool = False) -> RawTicket:
        """Start one frame; a backend for the CPU answers it before this returns.

        Args:
            frame: uint8 array [H, W, 3] in C order, which may be overwritten at once; or a frame in GPU memory as in
                `cuda.source.device_frame_from`, which must stay as it is until the result is taken.
            parts_on_device: Whether the parts mask stays on the GPU; the result is a `DeviceRawAnswer` then.

        Raises:
            FrameError: If the frame does not fit the graph.
            IntegrityError: If the engine fails on the graph.
            DeviceError: If the GPU fails.
            UsageError: If `in_flight_max` frames are in flight, or the backend is closed.
        """

    def warm_up(self, frame_HWC: NDArray[np.uint8]) -> None:
        """Answer a frame in every place where one can be in flight, for the memory and code that is touched first.

        Raises:
            DeviceError: If the GPU fails.
        """


class SynchronousBackend(ABC):
    """The part of `Backend` that is common to all backends that answer a frame before they return, as on a CPU."""

    takes_device_frames = False
    in_flight_max = 1
    graphs = ""
    last_times: GpuTimes | None = None

    @abstractmethod
    def run(self, frame_HWC: NDArray[np.uint8]) -> RawAnswer:
        """Answer one frame; see `Backend.run`."""

    @final
    def submit(self, frame: object, *, parts_on_device: bool = False) -> _FinishedTicket:
        """Answer one frame; see `Backend.submit`."""
        assert isinstance(frame, np.ndarray), "it takes no frame in GPU memory"
        assert not parts_on_device, "it has no GPU to leave the mask on"
        return _FinishedTicket(self.run(frame))

    @final
    def warm_up(self, frame_HWC: NDArray[np.uint8]) -> None:
        """Answer a frame; see `Backend.warm_up`."""
        self.run(frame_HWC)


def sealed_tensors(signature: GraphSignature) -> tuple[GraphTensor, ...]:
    """The input of a sealed graph, then its outputs in the order of `contract.OUTPUT_NAMES`."""
    return (
        GraphTensor(name=INPUT_NAME, dtype="uint8", shape=(*signature.frame_size_px, 3)),
        GraphTensor(name="class_probs", dtype="float32", shape=(signature.num_classes,)),
        GraphTensor(name="parts", dtype="uint8", shape=signature.frame_size_px),
        GraphTensor(name="box_xyxy", dtype="float32", shape=(4,)),
        GraphTensor(name="health", dtype="float32", shape=(len(HEALTH_SIGNALS),)),
    )


def signature_from_tensors(inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> GraphSignature:
    """Check the tensors of a graph against the contract of sealed graphs.

    Raises:
        IntegrityError: If a name, dtype or shape differs from the contract.
    """
    input_names, output_names = [tensor.name for tensor in inputs], [tensor.name for tensor in outputs]
    if input_names != [INPUT_NAME] or sorted(output_names) != sorted(OUTPUT_NAMES):
        raise _foreign_graph(
            f"inputs {input_names} and outputs {output_names}", f"[{INPUT_NAME!r}] and {list(OUTPUT_NAMES)}"
        )
    tensors = {tensor.name: tensor for tensor in (*inputs, *outputs)}
    # A tensor of too low a rank is found below: the contract's has another shape.
    height_px, width_px = (*tensors[INPUT_NAME].shape, 0, 0)[:2]
    num_classes = (*tensors["class_probs"].shape, 0)[0]
    signature = GraphSignature(frame_size_px=(height_px, width_px), num_classes=num_classes)
    for expected in sealed_tensors(signature):
        found = tensors[expected.name]
        if found != expected or min(found.shape) < 1:
            raise _foreign_graph(
                f"{found.name} of dtype {found.dtype} and shape {found.shape}",
                f"{expected.dtype} of shape {expected.shape}, with every extent fixed and above 0",
            )
    return signature


def require_threads(threads: int) -> None:
    """Refuse a number of threads that no engine can work with.

    Raises:
        UsageError: If the number is below one.
    """
    if threads < 1:
        raise UsageError(f"threads is {threads}; at least one is needed. Check --threads.")


def _foreign_graph(seen: str, expected: str) -> IntegrityError:
    return IntegrityError(
        f"the graph is not a sealed graph: it has {seen}; the contract is {expected}. "
        "Build the bundle again with `spacecompile build`."
    )
