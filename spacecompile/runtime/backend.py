"""What a backend is: the protocol that every engine's adapter fulfils, and what passes through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import HEALTH_SIGNALS, INPUT_NAME, OUTPUT_NAMES
from spacecompile.errors import IntegrityError


@dataclass(frozen=True, kw_only=True, eq=False)
class RawAnswer:
    """The outputs of one run, unchecked. The caller owns the arrays: no later run writes to them.

    Attributes:
        class_probs_L: float32, in the order of the spec's classes.
        parts_HW: uint8, bit 0 body, bit 1 panel.
        box_xyxy: float32 [4], half-open, in frame pixels; all zero without a box.
        health: float32, in the order of `contract.HEALTH_SIGNALS`.
    """

    class_probs_L: NDArray[np.float32]
    parts_HW: NDArray[np.uint8]
    box_xyxy: NDArray[np.float32]
    health: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class GraphSignature:
    """What a sealed graph says of itself.

    Attributes:
        frame_size_px: (height, width) of the frame that it takes.
        num_classes: Length of its class probabilities.
    """

    frame_size_px: tuple[int, int]
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class TensorFact:
    """Name, numpy dtype name and shape of one graph input or output, as the engine reports it."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """What a backend on a GPU is told beside the graph; the others ignore it.

    Attributes:
        device_index: Of the GPU, among those that CUDA_VISIBLE_DEVICES leaves.
        in_flight: Frames that may be in flight at the same time, each on a stream of its own.
        sidecar: What the bundle holds beside a plan; None for a graph that has none.
        bundle: Folder of the bundle, as a command line would name it.
        frame_size_px: (height, width) of its frames.
        timed: Take the time of every run by the GPU's clock, for measurements; costs a few events per run.
    """

    device_index: int = 0
    in_flight: int = 1
    sidecar: bytes | None = None
    bundle: str = "BUNDLE"
    frame_size_px: tuple[int, int] = (0, 0)
    timed: bool = False


class Backend(Protocol):
    """One engine that holds one graph. Used from one thread at a time."""

    @property
    def name(self) -> str:
        """Of the engine and the device, for example `onnxruntime`."""

    @property
    def version(self) -> str:
        """Of the engine."""

    @property
    def signature(self) -> GraphSignature:
        """Of the graph."""

    def run(self, frame_HWC: NDArray[np.uint8]) -> RawAnswer:
        """Answer one frame.

        Args:
            frame_HWC: C-contiguous RGB frame of the graph's size.

        Raises:
            FrameError: If the frame does not fit the graph.
            IntegrityError: If the engine fails on the graph.
        """

    def close(self) -> None:
        """Free the engine's memory. Closing twice is harmless."""


def signature_from_tensors(inputs: Sequence[TensorFact], outputs: Sequence[TensorFact]) -> GraphSignature:
    """Check the tensors of a graph against the contract of sealed graphs.

    Raises:
        IntegrityError: If a name, dtype or shape differs from the contract.
    """
    shapes = dict(zip([INPUT_NAME, *OUTPUT_NAMES], _contract_shapes(inputs, outputs), strict=True))
    height_px, width_px, channels = shapes[INPUT_NAME]
    (num_classes,) = shapes["class_probs"]
    expected = {
        INPUT_NAME: (height_px, width_px, 3),
        "class_probs": (num_classes,),
        "parts": (height_px, width_px),
        "box_xyxy": (4,),
        "health": (len(HEALTH_SIGNALS),),
    }
    if shapes != expected or channels != 3:
        raise _foreign_graph(f"shapes {shapes}", f"{expected}")
    return GraphSignature(frame_size_px=(height_px, width_px), num_classes=num_classes)


def _contract_shapes(inputs: Sequence[TensorFact], outputs: Sequence[TensorFact]) -> list[tuple[int, ...]]:
    """Static shapes of the input and the outputs in contract order, after names, dtypes and ranks are checked."""
    dtypes = {
        INPUT_NAME: "uint8",
        "class_probs": "float32",
        "parts": "uint8",
        "box_xyxy": "float32",
        "health": "float32",
    }
    ranks = {INPUT_NAME: 3, "class_probs": 1, "parts": 2, "box_xyxy": 1, "health": 1}
    input_names, output_names = [fact.name for fact in inputs], [fact.name for fact in outputs]
    if input_names != [INPUT_NAME] or sorted(output_names) != sorted(OUTPUT_NAMES):
        raise _foreign_graph(
            f"inputs {input_names} and outputs {output_names}", f"[{INPUT_NAME!r}] and {list(OUTPUT_NAMES)}"
        )
    facts = {fact.name: fact for fact in (*inputs, *outputs)}
    shapes = []
    for name, dtype in dtypes.items():
        fact = facts[name]
        shape = tuple(extent for extent in fact.shape if isinstance(extent, int) and extent > 0)
        if fact.dtype != dtype or len(fact.shape) != ranks[name] or len(shape) != ranks[name]:
            raise _foreign_graph(
                f"{name} of dtype {fact.dtype} and shape {fact.shape}", f"{dtype} with {ranks[name]} fixed extents"
            )
        shapes.append(shape)
    return shapes


def _foreign_graph(seen: str, expected: str) -> IntegrityError:
    return IntegrityError(
        f"the graph is not a sealed graph: it has {seen}; the contract is {expected}. "
        "Build the bundle again with `spacecompile build`."
    )
