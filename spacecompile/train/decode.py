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

PIXEL_CHANNELS = 3 + len(PARTS)

_COVERAGE_OF_BITS = [[255 * (bits >> part & 1) for bits in range(256)] for part in range(len(PARTS))]

CRAFT_GROWTH = (0.9, 2.0)
"""Side of a craft view over the craft's own extent: smallest and largest. Tight views teach the class sooner."""

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
    image = read_image(frame.image_path)
    size_px = (image.height, image.width)
    parts = read_parts_image(frame, size_px) or Image.new("L", image.size)
    windows = [(slice(0, size_px[0]), slice(0, size_px[1]))]
    if craft_growth is not None:
        windows.append(craft_window(frame.box_xyxy, size_px, input_size_px, craft_growth))
    return Views(
        pixels_VCHW=torch.stack([_reduced(image, parts, window, input_size_px) for window in windows]),
        boxes_V4=torch.tensor([_box_in(window, frame.box_xyxy, input_size_px) for window in windows]),
    )


def _reduced(
    image: Image.Image, parts: Image.Image, window: tuple[slice, slice], input_size_px: tuple[int, int]
) -> Tensor:
    """RGB and coverage of a window at input size, rounded to uint8 [5, H, W].

    Whole ratios take Pillow's box reduction: a frame of 1024x1024 px to 512x512 px is then 21 ms of one core instead of
    55 ms with torch, decoding included. Both average the same pixels; where an average ends in a half they may round it
    differently.
    """
    rows, columns = window
    box = (columns.start, rows.start, columns.stop, rows.stop)
    cropped = image.crop(box)
    planes = [parts.crop(box).point(table) for table in _COVERAGE_OF_BITS]
    ratios = (cropped.width // input_size_px[1], cropped.height // input_size_px[0])
    if cropped.size == (ratios[0] * input_size_px[1], ratios[1] * input_size_px[0]):
        reduced = [np.asarray(picture.reduce(ratios)) for picture in (cropped, *planes)]
        return torch.from_numpy(np.concatenate([reduced[0].transpose(2, 0, 1), np.stack(reduced[1:])]))
    pixels_HWC = np.dstack([np.asarray(picture) for picture in (cropped, *planes)])
    pixels_NCHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None].float()
    return input_from_frame(pixels_NCHW, input_size_px)[0].round().to(torch.uint8)


def _box_in(
    window: tuple[slice, slice], box_xyxy: tuple[int, int, int, int], input_size_px: tuple[int, int]
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
class DecodedFrame:
    """What became of one frame.

    Attributes:
        views: Of the frame, or of the one that is shown in its place.
        shown: Index of the frame that is shown.
        broken: The frames that could not be.
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
        frames: Of the split.
        input_size_px: (height, width).
        has_craft_views: Whether each frame is also shown as a view cut around the craft.
    """

    frames: Sequence[LabelledFrame]
    input_size_px: tuple[int, int]
    has_craft_views: bool

    def __call__(self, index: int) -> DecodedFrame:
        """Decode a frame, or the next that can be.

        Raises:
            DataError: If none can be.
        """
        broken: list[BrokenFile] = []
        for step in range(len(self.frames)):
            shown = (index + step) % len(self.frames)
            frame = self.frames[shown]
            try:
                views = views_from_files(frame, self.input_size_px, craft_growth=self._growth(shown))
            except (FrameError, DataError) as error:
                broken.append(BrokenFile(path=frame.image_path, reason=str(error)))
                continue
            return DecodedFrame(views=views, shown=shown, broken=tuple(broken))
        raise DataError(f"none of {len(self.frames)} frames can be used; the first: {broken[0].reason}")

    def _growth(self, index: int) -> float | None:
        if not self.has_craft_views:
            return None
        low, high = CRAFT_GROWTH
        growth: float = low * (high / low) ** (index * GOLDEN_RATIO % 1)
        return growth
