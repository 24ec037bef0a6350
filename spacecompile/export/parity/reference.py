"""What eager PyTorch answers to the parity frames: the reference that every shipped file is judged against.

Layout legend: H, W frame rows and columns; C channels (RGB); L classes.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor, nn

from spacecompile.contract import ModelSpec, Progress, Tta, no_progress
from spacecompile.export.parity.frame_set import ParityFrame
from spacecompile.export.sealed.box_of_maxima import logit
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.export.sealed.parts_in_frame import PartsInFrame
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.threads import usable_cores

LOGIT_BAND = 1e-3
"""Half width of the band around every threshold, in logits, inside which float32 does not decide a pixel.

Two engines differ by up to 1e-4 of a logit. A box edge is the position of one pixel, so where a frame has a logit
within the band the edge may lie anywhere between the boxes of the band's two ends; and in a small frame one such pixel
is more than a mask's IoU may lose.
"""


REFERENCE = f"torch {torch.__version__}, eager, float32, before any rewrite"
"""What gives the reference answers, in the words of every certificate."""

REFERENCE_THREADS = 1
"""Number of threads that PyTorch computes one frame with."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpectedAnswer:
    """One frame and what PyTorch answers to it.

    Attributes:
        frame: Frame that was answered.
        answer: PyTorch's answer to the frame.
        boxes_B4: Boxes at the threshold and at both ends of its band.
        undecided_HW: Bits as uint8: those of parts that the two ends of the band set differently.
    """

    frame: ParityFrame
    answer: RawAnswer
    boxes_B4: NDArray[np.float32]
    undecided_HW: NDArray[np.uint8]


class ViewByView(nn.Module):
    """A network that takes a batch apart and remembers its answer to each view.

    Eager PyTorch answers eight views one by one in 0.85 times the time. One of them is the frame as it is, which the
    variant without test-time augmentation needs too; `d4` and `d4-median` need the same eight. Two threads that meet
    the same view for the first time at once both answer it, alike.
    """

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network; its weights stay its own, and must not change while this lives."""
        super().__init__()
        self.network = network
        self._answers: dict[bytes, tuple[Tensor, ...]] = {}

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, ...]:
        """What the network gives for the whole batch."""
        answers = [self._answer(view_1CHW) for view_1CHW in input_NCHW.chunk(input_NCHW.shape[0])]
        return tuple(torch.cat(outputs) for outputs in zip(*answers, strict=True))

    def _answer(self, view_1CHW: Tensor) -> tuple[Tensor, ...]:
        key = hashlib.blake2b(view_1CHW.contiguous().numpy().data).digest()
        if key not in self._answers:
            self._answers[key] = self.network(view_1CHW)
        return self._answers[key]


def reference_answers(
    network: nn.Module,
    spec: ModelSpec,
    tta: Tta,
    frames: Sequence[ParityFrame],
    *,
    workers: int | None = None,
    progress: Progress = no_progress,
) -> tuple[ExpectedAnswer, ...]:
    """Answers of a network before any rewrite, several frames at a time; see `expected_answers`.

    Args:
        network: Original network; a `ViewByView` around it remembers views from one augmentation to the next.
        spec: Spec that the bundle is built for.
        tta: Test-time augmentation.
        frames: Frames to answer.
        workers: Number of frames at a time; as many as there are usable cores if None.
        progress: Callback for progress.
    """
    graph = SealedGraph(network, spec, tta)
    return expected_answers(graph, frames, workers=workers or usable_cores(), progress=progress)


def expected_answers(
    reference: SealedGraph,
    frames: Sequence[ParityFrame],
    *,
    workers: int = 1,
    progress: Progress = no_progress,
) -> tuple[ExpectedAnswer, ...]:
    """Run eager PyTorch over all frames, once for every precision that is judged against it.

    Args:
        reference: The sealed graph around the original network.
        frames: Frames to answer.
        workers: Number of frames at a time, each on one thread: two frames side by side take 0.75 times the time of
            two threads on one frame after the other, and the answers don't depend on the number of cores.
        progress: Callback for progress.
    """
    step = f"reference, {reference.tta} views" if reference.tta != "none" else "reference"
    threads_before = torch.get_num_threads()
    torch.set_num_threads(REFERENCE_THREADS)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(REFERENCE_THREADS,))
    expected = []
    try:
        with _recorded_part_logits(reference) as part_logits:
            for answer in pool.map(partial(_expected_answer, reference, part_logits), frames):
                expected.append(answer)
                progress(step, len(expected), len(frames))
            return tuple(expected)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads_before)


@contextmanager
def _recorded_part_logits(reference: SealedGraph) -> Iterator[dict[int, tuple[Tensor | None, ...]]]:
    """What each thread's last frame led to before parts and box, by the thread's identity."""
    seen: dict[int, tuple[Tensor | None, ...]] = {}

    def record(_: nn.Module, inputs: tuple[Tensor | None, ...]) -> None:
        seen[threading.get_ident()] = inputs

    hook = reference.to_parts.register_forward_pre_hook(record)
    try:
        yield seen
    finally:
        hook.remove()


@torch.inference_mode()
def _expected_answer(
    reference: SealedGraph, part_logits: dict[int, tuple[Tensor | None, ...]], frame: ParityFrame
) -> ExpectedAnswer:
    class_probs_L, parts_HW, box_xyxy, health = reference(torch.from_numpy(frame.frame_HWC))
    before_parts = part_logits.pop(threading.get_ident())
    lower, upper = (to_parts(*before_parts) for to_parts in parts_at_band_ends(reference.to_parts))
    boxes_B4 = torch.stack([box_xyxy, lower.box_xyxy, upper.box_xyxy])
    answer = RawAnswer(
        class_probs_L=class_probs_L.numpy(),
        parts_HW=parts_HW.numpy(),
        box_xyxy=box_xyxy.numpy(),
        health=health.numpy(),
    )
    undecided_HW = lower.parts_HW ^ upper.parts_HW
    return ExpectedAnswer(frame=frame, answer=answer, boxes_B4=boxes_B4.numpy(), undecided_HW=undecided_HW.numpy())


def parts_at_band_ends(to_parts: PartsInFrame) -> tuple[PartsInFrame, PartsInFrame]:
    """The last step of a sealed graph with every threshold the half width of the band lower and higher."""
    lower, upper = (PartsInFrame(_with_shifted_thresholds(to_parts.spec, by)) for by in (-LOGIT_BAND, LOGIT_BAND))
    return lower, upper


def _with_shifted_thresholds(spec: ModelSpec, by_logits: float) -> ModelSpec:
    def shifted(threshold: float) -> float:
        return 1 / (1 + math.exp(-(logit(threshold) + by_logits)))

    body, panel = spec.part_thresholds
    box = replace(spec.box, threshold=shifted(spec.box.threshold))
    return replace(spec, part_thresholds=(shifted(body), shifted(panel)), box=box)
