"""Labelled frames as training batches and as validation frames, decoded in parallel and kept in memory.

Layout legend: N frames, V views, C channels, K parts, H W frame or input rows and columns.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from spacecompile.data.broken import BrokenFile, BrokenFiles
from spacecompile.data.labels import LabelledFrame
from spacecompile.errors import DataError, FrameError
from spacecompile.runtime.threads import usable_processors
from spacecompile.train.frames.decode import (
    ALL_VIEWS,
    PIXEL_CHANNELS,
    Request,
    ValidationFrame,
    ViewDecoder,
    validation_frame_from_files,
)
from spacecompile.train.frames.loader import DecodedGroup, ProcessDecoder, ahead, decoded_by_threads
from spacecompile.train.frames.store import FrameStore

__all__ = ["Batch", "Cache", "TrainingFrames", "ValidationFrame", "ValidationFrames", "class_indices", "silenced"]

Cache = Literal["auto", "ram", "disk", "none"]

SILENT_LOGIT = -60.0
"""A part probability of 1e-26: with a target of 0 every loss on it is 0."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one training step sees.

    Attributes:
        pixels_NCHW: uint8 [N, 5, H, W] at input size: RGB, body coverage, panel coverage; 255 is fully covered.
        class_N: int64 class indices.
        boxes_N4: float32 [N, 4] labelled boxes, half-open xyxy in pixels of the input.
        has_parts_N: Whether a frame's parts are labelled; its coverage is 0 where they are not. See `silenced`. One
            value for all frames, by default that they are.
    """

    pixels_NCHW: Tensor
    class_N: Tensor
    boxes_N4: Tensor
    has_parts_N: Tensor = field(default_factory=lambda: torch.tensor(True))


def silenced(part_logits_NKhw: Tensor, has_parts_N: Tensor) -> Tensor:
    """Part logits that keep frames without labelled parts out of every loss on parts.

    Their logits become a constant "no part", which their coverage of 0 agrees with: no loss, no gradient. A mean over
    the batch then weighs every frame the same, however many of its neighbours have masks.

    Args:
        part_logits_NKhw: Part logits of the network.
        has_parts_N: Whether the parts of each frame of the batch are labelled, on any device.
    """
    if bool(has_parts_N.all()):
        return part_logits_NKhw
    keep_N111 = has_parts_N.to(part_logits_NKhw.device)[:, None, None, None]
    return part_logits_NKhw.where(keep_N111, SILENT_LOGIT)


def class_indices(frames: Sequence[LabelledFrame], classes: Sequence[str]) -> list[int]:
    """Index of every frame's class.

    Raises:
        DataError: If a frame has a class that the network does not have.
    """
    unknown = sorted({frame.class_name for frame in frames} - set(classes))
    if unknown:
        raise DataError(
            f"the frames have classes {unknown} that the network lacks; it has {', '.join(classes)}. "
            "Remove these frames, or take a checkpoint or recipe with these classes."
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


class TrainingFrames:
    """The training split at input size, decoded when first asked for and then kept in memory if it fits.

    Broken files are counted, and the next usable frame is shown in their place; see `data.broken`.
    """

    def __init__(
        self,
        frames: Sequence[LabelledFrame],
        *,
        classes: Sequence[str],
        input_size_px: tuple[int, int],
        craft_views: bool = False,
        cache: Cache = "auto",
        workers: int | None = None,
        processes: int = 0,
        store: FrameStore | None = None,
    ) -> None:
        """Prepare; nothing is decoded yet.

        Args:
            frames: With files on disk.
            classes: Class names of the network, in order.
            input_size_px: (height, width).
            craft_views: Whether views cut around the craft are wanted beside whole frames.
            cache: Where decoded frames stay.
            workers: Decoding threads; one per processor when None.
            processes: Decoding processes instead of threads; 0 for threads.
            store: Where whole decoded frames are kept between epochs and runs; None for nowhere.

        Raises:
            DataError: If a class is unknown or `ram` can't hold the frames.
        """
        self._class_N = torch.tensor(class_indices(frames, classes))
        self._has_parts_N = torch.tensor([frame.has_parts for frame in frames])
        self._threads = workers or usable_processors()
        self._decoder = ViewDecoder(
            frames=tuple(frames), input_size_px=input_size_px, has_craft_views=craft_views, store=store
        )
        self._processes = ProcessDecoder(self._decoder, processes=processes) if processes else None
        self._views = 2 if craft_views else 1
        shape = (len(frames), self._views, PIXEL_CHANNELS, *input_size_px)
        self.in_memory = keeps_in_memory(cache, math.prod(shape))
        self._kept_NVCHW = torch.empty(shape if self.in_memory else (0, *shape[1:]), dtype=torch.uint8)
        self._boxes_NV4 = torch.zeros(len(frames), self._views, 4)
        self._shown_N = torch.arange(len(frames))
        self._is_kept = [False] * len(frames)
        self._broken = BrokenFiles(len(frames), name="the training frames")

    def __len__(self) -> int:
        return len(self._is_kept)

    @property
    def broken(self) -> tuple[BrokenFile, ...]:
        """Frames that could not be used, as far as they were met."""
        return self._broken.found

    @property
    def has_parts(self) -> bool:
        """Whether the parts of any frame are labelled."""
        return bool(self._has_parts_N.any())

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
            DataError: If 1 % of the frames or more are broken: missing, damaged, or with a mask of another size.
        """
        groups = [group for group in torch.split(order_N, batch_size) if len(group) == batch_size]
        is_craft_N = torch.rand(len(order_N), generator=generator) < craft_share * (self._views > 1)
        views = torch.split(is_craft_N.long(), batch_size)[: len(groups)]
        requests = [self._requests(group, view_N) for group, view_N in zip(groups, views, strict=True)]
        for group, view_N, decoded in zip(groups, views, self._decoded(requests), strict=True):
            yield self._batch(group, view_N, decoded)

    def stop_processes(self) -> None:
        """End the decoding processes, if there are any; threads would decode what is asked for afterwards."""
        self._processes = None

    def _requests(self, group: Tensor, view_N: Tensor) -> list[Request]:
        """One view of each frame; every view where they stay in memory."""
        if self.in_memory:
            return [(index, ALL_VIEWS) for index in group.tolist()]
        return list(zip(group.tolist(), view_N.tolist(), strict=True))

    def _decoded(self, groups: Sequence[Sequence[Request]]) -> Iterator[DecodedGroup]:
        if self._processes is None or all(self._is_kept):
            return decoded_by_threads(self._decoder, groups, self._is_wanted, threads=self._threads)
        return self._processes.decoded(groups, self._is_wanted)

    def _is_wanted(self, request: Request) -> bool:
        return not self._is_kept[request[0]]

    def _batch(self, group: Tensor, view_N: Tensor, decoded: DecodedGroup) -> Batch:
        for broken in decoded.broken:
            self._broken.add(broken)
        if not self.in_memory:
            return self._fresh(self._requests(group, view_N), decoded)
        self._keep(decoded)
        shown_N = self._shown_N[group]
        return Batch(
            pixels_NCHW=self._kept_NVCHW[group, view_N],
            class_N=self._class_N[shown_N],
            boxes_N4=self._boxes_NV4[group, view_N],
            has_parts_N=self._has_parts_N[shown_N],
        )

    def _fresh(self, requests: list[Request], decoded: DecodedGroup) -> Batch:
        """A batch of what was decoded just now."""
        assert decoded.pixels_NVCHW is not None and decoded.boxes_NV4 is not None  # every request was wanted
        found = {request: place for place, request in enumerate(decoded.requests)}  # one may come twice in a batch
        places = [found[request] for request in requests]
        shown_N = torch.tensor(decoded.shown)[places]
        return Batch(
            pixels_NCHW=decoded.pixels_NVCHW[places, 0],
            class_N=self._class_N[shown_N],
            boxes_N4=decoded.boxes_NV4[places, 0],
            has_parts_N=self._has_parts_N[shown_N],
        )

    def _keep(self, decoded: DecodedGroup) -> None:
        if decoded.pixels_NVCHW is None or decoded.boxes_NV4 is None:
            return
        index_N = torch.tensor([index for index, _ in decoded.requests])
        self._shown_N[index_N] = torch.tensor(decoded.shown)
        self._boxes_NV4[index_N] = decoded.boxes_NV4
        self._kept_NVCHW[index_N] = decoded.pixels_NVCHW
        for index, _ in decoded.requests:
            self._is_kept[index] = True


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
            classes: Class names of the network, in order.
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
        self._threads = workers or usable_processors()
        frame_bytes = 12 * input_size_px[0] * input_size_px[1] + frame_size_px[0] * frame_size_px[1]
        self.in_memory = keeps_in_memory(cache, len(self._frames) * frame_bytes)
        self._kept: dict[int, ValidationFrame] = {}
        self._broken = BrokenFiles(len(self._frames), name="the frames to score")

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def broken(self) -> tuple[BrokenFile, ...]:
        """Frames that could not be used, as far as they were met."""
        return self._broken.found

    def batches(self, batch_size: int) -> Iterator[list[ValidationFrame]]:
        """All usable frames in order, the last batch as long as it is; a batch without a usable frame is left out.

        Raises:
            DataError: If 1 % of the frames or more are broken.
        """
        groups = [range(start, min(start + batch_size, len(self))) for start in range(0, len(self), batch_size)]

        def start(pool: ThreadPoolExecutor, group: range) -> dict[int, Future[ValidationFrame | BrokenFile]]:
            return {index: pool.submit(self._decoded, index) for index in group if index not in self._kept}

        for group, decoded in ahead(groups, start, threads=self._threads):
            fresh = {index: self._usable(future.result()) for index, future in decoded.items()}
            usable = {index: frame for index, frame in fresh.items() if frame is not None}
            if self.in_memory:
                self._kept.update(usable)
            batch = [usable[index] if index in usable else self._kept.get(index) for index in group]
            if frames := [frame for frame in batch if frame is not None]:
                yield frames

    def _decoded(self, index: int) -> ValidationFrame | BrokenFile:
        frame = self._frames[index]
        try:
            return validation_frame_from_files(frame, self._class_indices[index], self._input_size_px)
        except (FrameError, DataError) as error:
            return BrokenFile(path=frame.image_path, reason=str(error))

    def _usable(self, decoded: ValidationFrame | BrokenFile) -> ValidationFrame | None:
        if isinstance(decoded, ValidationFrame):
            return decoded
        self._broken.add(decoded)
        return None
