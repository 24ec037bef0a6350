"""A picture of a data set: a few frames of every class with their labels drawn in.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from spacecompile.contract import Progress, no_progress
from spacecompile.data.labels import LabelledFrame, spread
from spacecompile.data.spark import BODY_BIT, PANEL_BIT, read_frame_HWC, read_parts_HW, tight_box
from spacecompile.errors import DataError, FrameError

TILE_PX: Final = 224
_CAPTION_PX: Final = 18
_GAP_PX: Final = 4

BODY_RGB: Final = (255, 64, 64)
PANEL_RGB: Final = (64, 128, 255)
LABEL_RGB: Final = (64, 255, 96)
MASK_BOX_RGB: Final = (255, 208, 64)
_TINT_SHARE: Final = 0.45
_PAPER_RGB: Final = (24, 24, 28)
_INK_RGB: Final = (230, 230, 230)
_LEGEND: Final = (
    ("body", BODY_RGB),
    ("panel", PANEL_RGB),
    ("labelled box", LABEL_RGB),
    ("box of the mask", MASK_BOX_RGB),
)


def contact_sheet(
    frames: Sequence[LabelledFrame], *, classes: Sequence[str], per_class: int = 5, progress: Progress = no_progress
) -> bytes:
    """Draw a sheet with one row per class: whole frames, parts tinted, labelled box and mask's box outlined.

    Args:
        frames: Frames to choose from; those that can't be read leave their place empty.
        classes: Classes, one row each, in this order; classes without a frame are left out.
        per_class: Number of frames per row, spread over the class.
        progress: Callback for progress.

    Returns:
        A PNG file.
    """
    rows = {name: [frame for frame in frames if frame.class_name == name] for name in classes}
    chosen = {name: spread(row, per_class) for name, row in rows.items() if row}
    width_px = per_class * (TILE_PX + _GAP_PX) + _GAP_PX
    row_px = TILE_PX + _CAPTION_PX + _GAP_PX
    sheet = Image.new("RGB", (width_px, _CAPTION_PX + _GAP_PX + row_px * len(chosen)), _PAPER_RGB)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    left = _GAP_PX
    for text, color in _LEGEND:
        draw.text((left, 3), text, fill=color, font=font)
        left += round(draw.textlength(text, font=font)) + 4 * _GAP_PX
    done, total = 0, sum(map(len, chosen.values()))
    for place, (name, row) in enumerate(chosen.items()):
        top = _CAPTION_PX + _GAP_PX + place * row_px
        draw.text((_GAP_PX, top + 2), f"{name}  ({len(rows[name])} frames)", fill=_INK_RGB, font=font)
        for column, frame in enumerate(row):
            tile = _tile(frame)
            if tile is not None:
                sheet.paste(tile, (_GAP_PX + column * (TILE_PX + _GAP_PX), top + _CAPTION_PX))
            done += 1
            progress("contact sheet", done, total)
    stream = io.BytesIO()
    sheet.save(stream, format="PNG")
    return stream.getvalue()


def _tile(frame: LabelledFrame) -> Image.Image | None:
    """One frame with its labels, fitted into a square; None where a file is broken."""
    try:
        frame_HWC = read_frame_HWC(frame.image_path).copy()
        parts_HW = read_parts_HW(frame, frame_HWC.shape[:2])
    except (FrameError, DataError):
        return None
    for bit, color in ((BODY_BIT, BODY_RGB), (PANEL_BIT, PANEL_RGB)):
        if parts_HW is not None:
            is_part_HW = (parts_HW & bit) > 0
            tint = np.multiply(color, _TINT_SHARE)
            frame_HWC[is_part_HW] = (frame_HWC[is_part_HW] * (1 - _TINT_SHARE) + tint).astype(np.uint8)
    image = Image.fromarray(frame_HWC)
    scale = TILE_PX / max(image.size)
    # Whole pixels of the tile are drawn after the reduction, so that thin outlines stay visible.
    tile = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)
    draw = ImageDraw.Draw(tile)
    boxes = ((None if parts_HW is None else tight_box(parts_HW), MASK_BOX_RGB), (frame.box_xyxy, LABEL_RGB))
    for box_xyxy, color in boxes:
        if box_xyxy is not None:
            x_min, y_min, x_max, y_max = (edge_px * scale for edge_px in box_xyxy)
            draw.rectangle((x_min, y_min, max(x_min, x_max - 1), max(y_min, y_max - 1)), outline=color)
    return tile
