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

from spacecompile.contract import Progress, no_progress
from spacecompile.export.boxes import logit
from spacecompile.export.frames import ParityFrame
from spacecompile.export.masks import PartsInFrame
from spacecompile.export.sealed import SealedGraph
from spacecompile.runtime.backends import RawAnswer

BOX_LOGIT_BAND = 1e-3
"""Half width of the band around the box threshold, in logits, inside which float32 does not decide a pixel.

A box edge is the position of one pixel, so where a frame has a logit within rounding of the threshold the edge may lie
anywhere between the boxes of the two ends of the band. Two engines differ by up to 1e-4 of a logit.
"""


REFERENCE_THREADS = 1
"""Of PyTorch for one frame."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpectedAnswer:
    """One frame and what PyTorch answers to it.

    Attributes:
        frame: The frame.
        answer: To it.
        boxes_B4: Boxes at the threshold and at both ends of its band.
    """

    frame: ParityFrame
    answer: RawAnswer
    boxes_B4: NDArray[np.float32]


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
        frames: To answer.
        workers: Frames at a time, each on one thread: two frames side by side take 0.75 times the time of two threads
            on one frame after the other, and the answers don't depend on the number of cores.
        progress: Called with step `reference` and the graph's test-time augmentation.
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
    at_band_ends = _parts_at_band_ends(reference.to_parts)
    boxes_B4 = torch.stack([box_xyxy, *(parts(*before_parts).box_xyxy for parts in at_band_ends)])
    answer = RawAnswer(
        class_probs_L=class_probs_L.numpy(),
        parts_HW=parts_HW.numpy(),
        box_xyxy=box_xyxy.numpy(),
        health=health.numpy(),
    )
    return ExpectedAnswer(frame=frame, answer=answer, boxes_B4=boxes_B4.numpy())


def _parts_at_band_ends(to_parts: PartsInFrame) -> list[PartsInFrame]:
    """The last step of a sealed graph with the box threshold half a band lower and higher."""
    spec = to_parts.spec
    ends = []
    for shift in (-BOX_LOGIT_BAND, BOX_LOGIT_BAND):
        threshold = 1 / (1 + math.exp(-(logit(spec.box.threshold) + shift)))
        ends.append(PartsInFrame(replace(spec, box=replace(spec.box, threshold=threshold))))
    return ends
