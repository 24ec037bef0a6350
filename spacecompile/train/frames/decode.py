"""From the files of one labelled frame to tensors at input size.

Layout legend: V views, C channels, H W frame or input rows and columns.
A *pixels* tensor stacks RGB and the coverage of body and panel, five channels, so that one resampling moves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from spacecompile.contract import PARTS
from spacecompile.data.broken import BrokenFile
from spacecompile.data.labels import LabelledFrame
from spacecompile.data.spark import read_frame_HWC, read_image, read_parts_HW, read_parts_image
from spacecompile.errors import DataError, FrameError
from spacecompile.network.preprocess import input_from_frame
from spacecompile.train.frames.store import DecodedPictures, FrameStore

PIXEL_CHANNELS = 3 + len(PARTS)

_COVERAGE_OF_BITS = [[255 * (bits >> part & 1) for bits in range(256)] for part in range(len(PARTS))]

CRAFT_GROWTH = (0.9, 2.0)
"""Side of a craft view over the craft's own extent: smallest and largest. Tight views teach the class sooner."""

ALL_VIEWS = -1

Request = tuple[int, int]
"""Index of a frame, and of one of its views or `ALL_VIEWS`."""

GOLDEN_RATIO = 0.618034
"""Its multiples spread evenly over 0..1, so that neighbouring frames get different growths, always the same."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """One frame as training sees it.

    Attributes:
        pixels_VCHW: uint8 [V, 5, H, W]: the whole frame, then the craft view; coverage 0 where parts are not labelled.
        boxes_V4: float32 [V, 4], half-open xyxy in pixels of each view, clipped to it.
    """

    pixels_VCHW: Tensor
    boxes_V4: Tensor


@dataclass(frozen=True, kw_only=True)
class ValidationFrame:
    """One frame to score.

    Attributes:
        input_CHW: float32 [3, H, W] at input size, 0 to 255, not rounded: exactly what the sealed graph computes.
        parts_HW: True part bits at the frame's own size; 0 where parts are not labelled.
        class_index: True class.
        box_xyxy: True box, half-open, in the frame's own pixels.
        has_parts: Whether the parts are labelled.
    """

    input_CHW: Tensor
    parts_HW: NDArray[np.uint8]
    class_index: int
    box_xyxy: tuple[float, float, float, float]
    has_parts: bool = True


def views_from_files(frame: LabelledFrame, input_size_px: tuple[int, int], *, craft_growth: float | None) -> Views:
    """Decode and reduce one frame and its mask.

    Coverage instead of a hard mask: a boom thinner than an input pixel keeps its share of it.

    Args:
        frame: With files on disk.
        input_size_px: (height, width) of each view.
        craft_growth: Side of the craft view over the craft's extent; None for the whole frame only.

    Raises:
        DataError: If a file is missing, or their sizes disagree.
        FrameError: If a file is damaged.
    """
    growths = (None,) if craft_growth is None else (None, craft_growth)
    return views_of(decoded_from_files(frame), frame, input_size_px, growths=growths)


def decoded_from_files(frame: LabelledFrame) -> DecodedPictures:
    """A frame and the coverage of its parts. Errors as `views_from_files`."""
    image = read_image(frame.image_path)
    parts = read_parts_image(frame, (image.height, image.width)) or Image.new("L", image.size)
    return DecodedPictures(image=image, coverages=tuple(parts.point(table) for table in _COVERAGE_OF_BITS))


def views_of(
    decoded: DecodedPictures,
    frame: LabelledFrame,
    input_size_px: tuple[int, int],
    *,
    growths: Sequence[float | None],
) -> Views:
    """Cut and reduce views of one decoded frame.

    Args:
        decoded: The frame's pixels, at full or at half size.
        frame: Labels of the frame.
        input_size_px: (height, width) of each view.
        growths: One entry per view: side of a craft view over the craft's extent; None for the whole frame.
    """
    size_px = (decoded.image.height, decoded.image.width)
    x_min, y_min, x_max, y_max = (edge_px / decoded.scale for edge_px in frame.box_xyxy)
    box_xyxy = (x_min, y_min, x_max, y_max)
    windows = [
        (slice(0, size_px[0]), slice(0, size_px[1]))
        if growth is None
        else craft_window(box_xyxy, size_px, input_size_px, growth, scale=decoded.scale)
        for growth in growths
    ]
    return Views(
        pixels_VCHW=torch.stack([_reduced(decoded, window, input_size_px) for window in windows]),
        boxes_V4=torch.tensor([_box_in(window, box_xyxy, input_size_px) for window in windows]),
    )


def _reduced(decoded: DecodedPictures, window: tuple[slice, slice], input_size_px: tuple[int, int]) -> Tensor:
    """RGB and coverage of a window at input size, rounded to uint8 [5, H, W].

    Whole ratios take Pillow's box reduction: a frame of 1024x1024 px to 512x512 px is then 21 ms of one core instead of
    55 ms with torch, decoding included. Both average the same pixels; where an average ends in a half they may round it
    differently.
    """
    rows, columns = window
    box = (columns.start, rows.start, columns.stop, rows.stop)
    cropped = decoded.image.crop(box)
    planes = [coverage.crop(box) for coverage in decoded.coverages]
    ratios = (cropped.width // input_size_px[1], cropped.height // input_size_px[0])
    if cropped.size == (ratios[0] * input_size_px[1], ratios[1] * input_size_px[0]):
        reduced = [np.asarray(picture.reduce(ratios)) for picture in (cropped, *planes)]
        return torch.from_numpy(np.concatenate([reduced[0].transpose(2, 0, 1), np.stack(reduced[1:])]))
    pixels_HWC = np.dstack([np.asarray(picture) for picture in (cropped, *planes)])
    pixels_NCHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None].float()
    return input_from_frame(pixels_NCHW, input_size_px)[0].round().to(torch.uint8)


def _box_in(
    window: tuple[slice, slice], box_xyxy: tuple[float, float, float, float], input_size_px: tuple[int, int]
) -> list[float]:
    """A frame's box in the pixels of a window that is reduced to the input's size."""
    rows, columns = window
    scales = (input_size_px[1] / (columns.stop - columns.start), input_size_px[0] / (rows.stop - rows.start))
    starts, limits = (columns.start, rows.start), (input_size_px[1], input_size_px[0])
    return [
        min(max((edge_px - starts[axis]) * scales[axis], 0.0), float(limits[axis]))
        for edge_px, axis in zip(box_xyxy, (0, 1, 0, 1), strict=True)
    ]


def craft_window(
    box_xyxy: tuple[float, float, float, float],
    frame_size_px: tuple[int, ...],
    input_size_px: tuple[int, int],
    growth: float,
    *,
    scale: int = 1,
) -> tuple[slice, slice]:
    """Rows and columns of a window around a craft, inside the frame, with the input's aspect where the frame allows.

    In pixels of the camera it is never smaller than half the input: more magnification would only show blur.

    Args:
        box_xyxy: Box of the craft, in pixels of the picture at hand.
        frame_size_px: (height, width) of the picture.
        input_size_px: (height, width) of the network's input.
        growth: Side of the window over the craft's extent.
        scale: Side of one of the picture's pixels in pixels of the camera.
    """
    x_min, y_min, x_max, y_max = box_xyxy
    aspect = input_size_px[1] / input_size_px[0]
    height = max(growth * max(y_max - y_min, (x_max - x_min) / aspect), input_size_px[0] / 2 / scale)
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
    """Decode one frame to score, with its mask at the frame's own size. Errors as `views_from_files`."""
    frame_HWC = read_frame_HWC(frame.image_path)
    parts_HW = read_parts_HW(frame, frame_HWC.shape[:2])
    frame_NCHW = torch.from_numpy(frame_HWC.copy()).permute(2, 0, 1)[None].float()
    x_min, y_min, x_max, y_max = (float(edge_px) for edge_px in frame.box_xyxy)
    return ValidationFrame(
        input_CHW=input_from_frame(frame_NCHW, input_size_px)[0],
        parts_HW=np.zeros(frame_HWC.shape[:2], np.uint8) if parts_HW is None else parts_HW,
        class_index=class_index,
        box_xyxy=(x_min, y_min, x_max, y_max),
        has_parts=frame.has_parts,
    )


@dataclass(frozen=True, kw_only=True)
class ShownFrame:
    """What became of one frame.

    Attributes:
        views: Views of the frame, or of the one that is shown in its place.
        shown: Index of the frame that is shown.
        broken: Frames that could not be shown.
    """

    views: Views
    shown: int
    broken: tuple[BrokenFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ViewDecoder:
    """Decodes frames by index, in any thread or process.

    A broken frame is replaced by the next usable one: every batch keeps its size, which batch norm and processes that
    train together rely on, and which frame is shown does not depend on the moment.

    Attributes:
        frames: Frames of the split.
        input_size_px: (height, width).
        has_craft_views: Whether each frame is also shown as a view cut around the craft.
        store: Where decoded frames are kept; None to decode them each time.
    """

    frames: Sequence[LabelledFrame]
    input_size_px: tuple[int, int]
    has_craft_views: bool
    store: FrameStore | None = None

    def __call__(self, request: Request) -> ShownFrame:
        """Decode a frame, or the next that can be.

        Args:
            request: Index of the frame, and which of its views.

        Raises:
            DataError: If none can be.
        """
        (index, view), broken = request, list[BrokenFile]()
        for step in range(len(self.frames)):
            shown = (index + step) % len(self.frames)
            frame = self.frames[shown]
            try:
                views = views_of(self._decoded(shown), frame, self.input_size_px, growths=self._growths(shown, view))
            except (FrameError, DataError) as error:
                broken.append(BrokenFile(path=frame.image_path, reason=str(error)))
                continue
            return ShownFrame(views=views, shown=shown, broken=tuple(broken))
        raise DataError(f"none of {len(self.frames)} frames can be used; the first: {broken[0].reason}")

    def _decoded(self, index: int) -> DecodedPictures:
        known = self.store.read(index) if self.store else None
        if known is not None:
            return known
        decoded = decoded_from_files(self.frames[index])
        if self.store:
            self.store.keep(index, decoded)
        return decoded

    def _growths(self, index: int, view: int) -> tuple[float | None, ...]:
        low, high = CRAFT_GROWTH
        growth: float = low * (high / low) ** (index * GOLDEN_RATIO % 1)
        growths = (None, growth) if self.has_craft_views else (None,)
        return growths if view == ALL_VIEWS else growths[view : view + 1]
