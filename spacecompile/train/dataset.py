"""Labelled frames as training batches and as validation frames, decoded in parallel and kept in memory.

Layout legend: N frames, C channels, K parts, H W frame or input rows and columns.
A *pixels* tensor stacks RGB and the coverage of body and panel, five channels, so that one resampling moves both.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacecompile.contract import PARTS
from spacecompile.data.spark import LabelledFrame, parts_HW_from_mask, read_frame_HWC
from spacecompile.errors import DataError
from spacecompile.network.preprocess import input_from_frame
from spacecompile.runtime.threads import usable_processors

Cache = Literal["auto", "ram", "none"]

PIXEL_CHANNELS = 3 + len(PARTS)
BATCHES_AHEAD = 2

CRAFT_GROWTH = (0.9, 2.0)
"""Side of a craft view over the craft's own extent: smallest and largest. Tight views teach the class sooner."""

GOLDEN_RATIO = 0.618034
"""Its multiples spread evenly over 0..1, so that neighbouring frames get different growths, always the same."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one training step sees.

    Attributes:
        pixels_NCHW: uint8 [N, 5, H, W] at input size: RGB, body coverage, panel coverage; 255 is fully covered.
        class_N: int64 class indices.
    """

    pixels_NCHW: Tensor
    class_N: Tensor


@dataclass(frozen=True, kw_only=True)
class ValidationFrame:
    """One frame to score.

    Attributes:
        input_CHW: float32 [3, H, W] at input size, 0 to 255, not rounded: exactly what the sealed graph computes.
        parts_HW: True part bits at the frame's own size.
        class_index: True class.
        box_xyxy: True box, half-open, in the frame's own pixels.
    """

    input_CHW: Tensor
    parts_HW: NDArray[np.uint8]
    class_index: int
    box_xyxy: tuple[float, float, float, float]


def class_indices(frames: Sequence[LabelledFrame], classes: Sequence[str]) -> list[int]:
    """Index of every frame's class.

    Raises:
        DataError: If a frame has a class that the network does not have.
    """
    unknown = sorted({frame.class_name for frame in frames} - set(classes))
    if unknown:
        raise DataError(
            f"the frames have classes {unknown} that the network lacks; it has {', '.join(classes)}. "
            "Remove these frames, or start from a checkpoint with these classes."
        )
    return [list(classes).index(frame.class_name) for frame in frames]


def available_memory_bytes() -> int:
    """Memory that can be taken without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: the page count below is the portable, more careful answer
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def keeps_in_memory(cache: Cache, needed_bytes: int) -> bool:
    """Whether decoded frames stay in memory: `auto` means when they take less than half of what is available.

    Raises:
        DataError: If `ram` was asked for and they take more than what is available.
    """
    available_bytes = available_memory_bytes()
    if cache == "ram" and needed_bytes > available_bytes:
        raise DataError(
            f"the decoded frames need {needed_bytes / 2**30:.1f} GiB and {available_bytes / 2**30:.1f} GiB are "
            "available. Use --cache none, fewer frames (--limit-frames) or a smaller --imgsz."
        )
    return cache == "ram" or (cache == "auto" and needed_bytes < available_bytes // 2)


def _parts_and_frame(frame: LabelledFrame) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    frame_HWC, parts_HW = read_frame_HWC(frame.image_path), parts_HW_from_mask(frame.mask_path)
    if frame_HWC.shape[:2] != parts_HW.shape:
        raise DataError(
            f"{frame.image_path} is {frame_HWC.shape[:2]} and its mask {frame.mask_path} is {parts_HW.shape} "
            "(height, width). Replace the one that is wrong."
        )
    return parts_HW, frame_HWC


def views_from_files(
    frame: LabelledFrame, input_size_px: tuple[int, int], *, craft_growth: float | None = None
) -> Tensor:
    """Decode and reduce one frame and its mask.

    Coverage instead of a hard mask: a boom thinner than an input pixel keeps its share of it.

    Args:
        frame: With files on disk.
        input_size_px: (height, width) of each view.
        craft_growth: Side of the craft view over the craft's extent; None for the whole frame only.

    Returns:
        uint8 [V, 5, H, W], see `Batch`: the whole frame, then the craft view.
    """
    parts_HW, frame_HWC = _parts_and_frame(frame)
    pixels_HWC = np.empty((*parts_HW.shape, PIXEL_CHANNELS), np.uint8)
    pixels_HWC[..., :3] = frame_HWC
    for part in range(len(PARTS)):
        pixels_HWC[..., 3 + part] = (parts_HW >> part & 1) * 255
    windows: list[tuple[slice, slice]] = [(slice(None), slice(None))]
    if craft_growth is not None:
        windows.append(craft_window(frame.box_xyxy, parts_HW.shape, input_size_px, craft_growth))
    views = [torch.from_numpy(pixels_HWC[window]).permute(2, 0, 1)[None].float() for window in windows]
    return torch.cat([input_from_frame(view_NCHW, input_size_px) for view_NCHW in views]).round().to(torch.uint8)


def craft_window(
    box_xyxy: tuple[int, int, int, int],
    frame_size_px: tuple[int, ...],
    input_size_px: tuple[int, int],
    growth: float,
) -> tuple[slice, slice]:
    """Rows and columns of a window around a craft, inside the frame, with the input's aspect where the frame allows.

    It is never smaller than half the input: more than twofold magnification would only show blur.
    """
    x_min, y_min, x_max, y_max = box_xyxy
    aspect = input_size_px[1] / input_size_px[0]
    height = max(growth * max(y_max - y_min, (x_max - x_min) / aspect), input_size_px[0] / 2)
    sides_px = (round(height), round(height * aspect))
    centres_px = ((y_min + y_max) / 2, (x_min + x_max) / 2)
    slices = []
    for side_px, centre_px, limit_px in zip(sides_px, centres_px, frame_size_px, strict=True):
        kept_px = min(side_px, limit_px)
        start_px = min(max(round(centre_px - kept_px / 2), 0), limit_px - kept_px)
        slices.append(slice(start_px, start_px + kept_px))
    return slices[0], slices[1]


def validation_frame_from_files(
    frame: LabelledFrame, class_index: int, input_size_px: tuple[int, int]
) -> ValidationFrame:
    """Decode one frame to score, with its mask at the frame's own size."""
    parts_HW, frame_HWC = _parts_and_frame(frame)
    frame_NCHW = torch.from_numpy(frame_HWC.copy()).permute(2, 0, 1)[None].float()
    x_min, y_min, x_max, y_max = (float(edge_px) for edge_px in frame.box_xyxy)
    return ValidationFrame(
        input_CHW=input_from_frame(frame_NCHW, input_size_px)[0],
        parts_HW=parts_HW,
        class_index=class_index,
        box_xyxy=(x_min, y_min, x_max, y_max),
    )


class TrainingFrames:
    """The training split at input size, decoded when first asked for and then kept in memory if it fits."""

    def __init__(
        self,
        frames: Sequence[LabelledFrame],
        *,
        classes: Sequence[str],
        input_size_px: tuple[int, int],
        craft_views: bool = False,
        cache: Cache = "auto",
        workers: int | None = None,
    ) -> None:
        """Prepare; nothing is decoded yet.

        Args:
            frames: With files on disk.
            classes: Of the network, in order.
            input_size_px: (height, width).
            craft_views: Whether views cut around the craft are wanted beside whole frames.
            cache: Where decoded frames stay.
            workers: Decoding threads; one per processor when None.

        Raises:
            DataError: If a class is unknown or `ram` can't hold the frames.
        """
        self._frames = list(frames)
        self._class_N = torch.tensor(class_indices(frames, classes))
        self._input_size_px = input_size_px
        self._workers = workers or usable_processors()
        self._views = 2 if craft_views else 1
        shape = (len(self._frames), self._views, PIXEL_CHANNELS, *input_size_px)
        self.in_memory = keeps_in_memory(cache, math.prod(shape))
        self._kept_NVCHW = torch.empty(shape if self.in_memory else (0, *shape[1:]), dtype=torch.uint8)
        self._is_kept = [False] * len(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    def batches(
        self, order_N: Tensor, batch_size: int, *, craft_share: float = 0.0, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Batches in the given order of frame indices; an incomplete last one is left out.

        Args:
            order_N: Frame indices.
            batch_size: Frames per batch.
            craft_share: Share of craft views; without such views all are whole frames.
            generator: Draws which frame is shown how.

        Raises:
            DataError: If a file is missing or sizes disagree.
            FrameError: If a file is damaged.
        """
        groups = [group for group in torch.split(order_N, batch_size) if len(group) == batch_size]
        is_craft_N = torch.rand(len(order_N), generator=generator) < craft_share * (self._views > 1)
        views = torch.split(is_craft_N.long(), batch_size)[: len(groups)]

        def start(pool: ThreadPoolExecutor, group: Tensor) -> dict[int, Future[Tensor]]:
            missing = [index for index in group.tolist() if not self._is_kept[index]]
            return {index: pool.submit(self._decoded, index) for index in missing}

        ahead = _ahead(groups, start, workers=self._workers)
        for (group, decoded), view_N in zip(ahead, views, strict=True):
            yield Batch(pixels_NCHW=self._pixels(group, view_N, decoded), class_N=self._class_N[group])

    def _decoded(self, index: int) -> Tensor:
        low, high = CRAFT_GROWTH
        growth = low * (high / low) ** (index * GOLDEN_RATIO % 1)
        return views_from_files(
            self._frames[index], self._input_size_px, craft_growth=growth if self._views > 1 else None
        )

    def _pixels(self, group: Tensor, view_N: Tensor, decoded: dict[int, Future[Tensor]]) -> Tensor:
        if not self.in_memory:
            shown = zip(group.tolist(), view_N.tolist(), strict=True)
            return torch.stack([decoded[index].result()[view] for index, view in shown])
        for index, future in decoded.items():
            self._kept_NVCHW[index] = future.result()
            self._is_kept[index] = True
        return self._kept_NVCHW[group, view_N]


class ValidationFrames:
    """Frames to score, with their masks at frame size, decoded when first asked for and kept if they fit."""

    def __init__(
        self,
        frames: Sequence[LabelledFrame],
        *,
        classes: Sequence[str],
        input_size_px: tuple[int, int],
        frame_size_px: tuple[int, int],
        cache: Cache = "auto",
        workers: int | None = None,
    ) -> None:
        """Prepare; nothing is decoded yet. Arguments as for `TrainingFrames`.

        Args:
            frames: With files on disk.
            classes: Of the network, in order.
            input_size_px: (height, width).
            frame_size_px: Expected size of the files, only to judge the memory.
            cache: Where decoded frames stay.
            workers: Decoding threads; one per processor when None.

        Raises:
            DataError: If a class is unknown or `ram` can't hold the frames.
        """
        self._frames = list(frames)
        self._class_indices = class_indices(frames, classes)
        self._input_size_px = input_size_px
        self._workers = workers or usable_processors()
        frame_bytes = 12 * input_size_px[0] * input_size_px[1] + frame_size_px[0] * frame_size_px[1]
        self.in_memory = keeps_in_memory(cache, len(self._frames) * frame_bytes)
        self._kept: dict[int, ValidationFrame] = {}

    def __len__(self) -> int:
        return len(self._frames)

    def batches(self, batch_size: int) -> Iterator[list[ValidationFrame]]:
        """All frames in order, the last batch as long as it is.

        Raises:
            DataError: If a file is missing or sizes disagree.
            FrameError: If a file is damaged.
        """
        groups = [range(start, min(start + batch_size, len(self))) for start in range(0, len(self), batch_size)]

        def start(pool: ThreadPoolExecutor, group: range) -> dict[int, Future[ValidationFrame]]:
            return {
                index: pool.submit(
                    validation_frame_from_files, self._frames[index], self._class_indices[index], self._input_size_px
                )
                for index in group
                if index not in self._kept
            }

        for group, decoded in _ahead(groups, start, workers=self._workers):
            fresh = {index: future.result() for index, future in decoded.items()}
            if self.in_memory:
                self._kept.update(fresh)
            yield [fresh[index] if index in fresh else self._kept[index] for index in group]


_Group = TypeVar("_Group")


def _ahead(
    groups: Sequence[_Group],
    start: Callable[[ThreadPoolExecutor, _Group], dict[int, Future[_Item]]],
    *,
    workers: int,
) -> Iterator[tuple[_Group, dict[int, Future[_Item]]]]:
    """Groups with their decoding already under way for the next few of them."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    pending: deque[tuple[_Group, dict[int, Future[_Item]]]] = deque()
    try:
        for group in groups:
            pending.append((group, start(pool, group)))
            if len(pending) > BATCHES_AHEAD:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
