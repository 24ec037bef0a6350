"""Drawing an answer onto its frame, for people to look at.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spacecompile.runtime.answer import Answer

BODY_RGB = (255, 64, 64)
PANEL_RGB = (64, 128, 255)
BOX_RGB = (64, 255, 96)
_FLAG_RGB = (255, 208, 64)
_PLATE_RGB = (16, 16, 16)

_TINT_SHARE = 0.35


def draw_overlay(frame_HWC: NDArray[np.uint8], answer: Answer) -> Image.Image:
    """The frame with tinted, outlined parts, the box, and a plate with class, probability and flags.

    Args:
        frame_HWC: RGB frame that the answer is about; it is not changed.
        answer: Answer for that frame.
    """
    image = draw_marks(frame_HWC, answer.parts_HW, answer.box_xyxy)
    box_xyxy = _drawable(answer.box_xyxy, image.size)
    _plate(ImageDraw.Draw(image), _plate_lines(answer, has_box=box_xyxy is not None), box_xyxy, image.size)
    return image


def draw_marks(
    frame_HWC: NDArray[np.uint8], parts_HW: NDArray[np.uint8], box_xyxy: NDArray[np.floating]
) -> Image.Image:
    """The frame with tinted, outlined parts and the box, without words.

    Args:
        frame_HWC: RGB frame; it is not changed.
        parts_HW: Mask with bit 0 body, bit 1 panel.
        box_xyxy: Half-open box in frame pixels; an empty one is not drawn.
    """
    canvas_HWC = frame_HWC.copy()
    line_px = max(1, round(min(frame_HWC.shape[:2]) / 512))
    for part, color in enumerate((BODY_RGB, PANEL_RGB)):
        _tint(canvas_HWC, (parts_HW >> part & 1).view(np.bool_), color, line_px)
    image = Image.fromarray(canvas_HWC)
    corners_xyxy = _drawable(box_xyxy, image.size)
    if corners_xyxy is not None:
        ImageDraw.Draw(image).rectangle(corners_xyxy, outline=BOX_RGB, width=line_px)
    return image


def _tint(canvas_HWC: NDArray[np.uint8], mask_HW: NDArray[np.bool_], color: tuple[int, int, int], line_px: int) -> None:
    """Blend a colour into a part and draw its outline, touching only the rows and columns that it covers."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    if rows.size == 0:
        return
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part_HW, region_HWC = mask_HW[window], canvas_HWC[window]
    tint = np.multiply(color, _TINT_SHARE)
    region_HWC[part_HW] = (region_HWC[part_HW] * (1 - _TINT_SHARE) + tint).astype(np.uint8)
    region_HWC[part_HW & ~_eroded(part_HW, line_px)] = color


def _eroded(mask_HW: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask without its outermost pixels; what is beyond the array counts as unset."""
    inner_HW = mask_HW
    for _ in range(steps):
        padded_HW = np.pad(inner_HW, 1)
        vertical_HW = padded_HW[:-2, 1:-1] & padded_HW[2:, 1:-1]
        inner_HW = inner_HW & vertical_HW & padded_HW[1:-1, :-2] & padded_HW[1:-1, 2:]
    return inner_HW


def _drawable(box_xyxy: NDArray[np.floating], size_px: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The corners, inclusive, of the pixels that a half-open box touches, or None for an empty box."""
    x_min, y_min, x_max, y_max = box_xyxy.tolist()
    if x_max <= x_min or y_max <= y_min:
        return None
    left, top = int(x_min), int(y_min)
    right, bottom = min(size_px[0], math.ceil(x_max)) - 1, min(size_px[1], math.ceil(y_max)) - 1
    return left, top, right, bottom


def _plate_lines(answer: Answer, *, has_box: bool) -> list[tuple[str, tuple[int, int, int]]]:
    """Text and colour of every line on the plate."""
    title = f"{answer.class_name}  {100 * answer.class_prob:.1f} %"
    lines = [(title if has_box else f"no box, {title}", BOX_RGB)]
    return [*lines, *((flag.replace("_", " "), _FLAG_RGB) for flag in answer.flags)]


def _plate(
    draw: ImageDraw.ImageDraw,
    lines: list[tuple[str, tuple[int, int, int]]],
    box_xyxy: tuple[int, int, int, int] | None,
    size_px: tuple[int, int],
) -> None:
    """Write the lines on a dark plate: above the box, else below it, else in the frame's corner."""
    font_px = max(9, min(size_px) // 36)
    font = ImageFont.load_default(size=font_px)
    pad_px, line_px = font_px // 3, round(font_px * 1.25)
    width_px = max(int(draw.textlength(text, font=font)) for text, _ in lines) + 2 * pad_px
    height_px = line_px * len(lines) + 2 * pad_px
    left, top = 0, 0
    if box_xyxy is not None:
        left = min(box_xyxy[0], size_px[0] - width_px)
        above, below = box_xyxy[1] - height_px - pad_px, box_xyxy[3] + 1 + pad_px
        top = above if above >= 0 else below if below + height_px <= size_px[1] else 0
    left = max(0, left)
    draw.rectangle((left, top, left + width_px - 1, top + height_px - 1), fill=_PLATE_RGB)
    for row, (text, color) in enumerate(lines):
        draw.text((left + pad_px, top + pad_px + row * line_px), text, fill=color, font=font)
