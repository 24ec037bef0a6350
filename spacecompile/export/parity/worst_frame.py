"""The frame on which a file is furthest from PyTorch, as a picture for people: both answers and where they differ.

Layout legend: H, W frame rows and columns, h, w those of a panel; C channels (RGB); L classes.
"""

from __future__ import annotations

import io
import math
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spacecompile.errors import OutputError
from spacecompile.export.bundle.writer import SUFFIX
from spacecompile.export.parity.reference import ExpectedAnswer
from spacecompile.export.parity.verdict import VariantParity
from spacecompile.files import PARTIAL_PREFIX
from spacecompile.record import json_from_record
from spacecompile.runtime.answer import Answer
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.overlay import draw_overlay

_FAILURE_SUFFIX = ".parity-failure"
_WIDTH_PX = 1024
_GAP_PX = 4
_PANEL_PX = (_WIDTH_PX - 4 * _GAP_PX) // 3
_LINE_PX = 18
_FONT_PX = 14
# A window around a craft of a few pixels would show nothing else.
_WINDOW_SHARE_MIN = 1 / 8

MISSING_RGB = (255, 176, 32)
EXTRA_RGB = (255, 64, 224)
OTHER_PART_RGB = (255, 255, 255)
_TEXT_RGB = (224, 224, 224)
_PAPER_RGB = (24, 24, 24)

_REPORT_NAME, _PICTURE_NAME = "parity.json", "worst.png"


def worst_frame(verdict: VariantParity) -> str:
    """Name of the frame to show: unsound, of another class where too many are, else where most of a limit is used up.

    Args:
        verdict: Verdict on one file.
    """
    limits = verdict.tolerance
    if broken := [frame.frame for frame in verdict.frames if frame.unsound]:
        return broken[0]
    if verdict.class_agreement < limits.class_agreement_min:
        disagreeing = [frame for frame in verdict.frames if not frame.class_agrees]
        # Adversarial frames have no right class.
        return min(disagreeing, key=lambda frame: frame.kind == "adversarial").frame
    used = {
        "class_probs": _share_used(verdict.class_probs_max, limits.class_probs_max),
        "parts_iou": _share_used(1 - verdict.parts_iou_min, 1 - limits.parts_iou_min),
        "box_px": _share_used(verdict.box_px_max, limits.box_px_max),
    }
    return verdict.worst_frames[max(used, key=lambda measure: used[measure])]


def _share_used(error: float, limit: float) -> float:
    if limit > 0:
        return error / limit
    return math.inf if error > 0 else 0.0


def draw_worst_frame(
    verdict: VariantParity,
    expected: Sequence[ExpectedAnswer],
    answer: Callable[[NDArray[np.uint8]], RawAnswer],
    *,
    classes: Sequence[str],
) -> bytes:
    """Answer the worst frame of a verdict once more and draw it.

    Args:
        verdict: Verdict on one file.
        expected: PyTorch's answers that the file was judged by.
        answer: Function of the file's backend that answers a frame.
        classes: Names in the order of the class probabilities.

    Returns:
        A PNG file of `draw_answers`.
    """
    name = worst_frame(verdict)
    case = next(case for case in expected if case.frame.name == name)
    frame_HWC = case.frame.frame_HWC
    title = f"{verdict.variant}, frame {name} ({case.frame.kind})"
    return draw_answers(frame_HWC, expected=case.answer, given=answer(frame_HWC), classes=classes, title=title)


def draw_answers(
    frame_HWC: NDArray[np.uint8], *, expected: RawAnswer, given: RawAnswer, classes: Sequence[str], title: str
) -> bytes:
    """PyTorch's answer, the file's answer, and the pixels that differ, side by side, around the craft.

    Args:
        frame_HWC: RGB frame that both answered.
        expected: PyTorch's answer.
        given: The file's answer; values that are no numbers, or lie outside the frame, are left out of the drawing.
        classes: Names in the order of the class probabilities.
        title: First line of the picture.

    Returns:
        A PNG file, at most `_WIDTH_PX` wide.
    """
    window = _window(expected, given)
    panels = [draw_overlay(window.picture(frame_HWC), _answer_in(window, raw, classes)) for raw in (expected, given)]
    panels.append(Image.fromarray(_differences(frame_HWC, expected.parts_HW, given.parts_HW, window)))
    width_px, height_px = panels[0].size
    canvas = Image.new("RGB", (3 * width_px + 4 * _GAP_PX, height_px + 5 * _LINE_PX + 2 * _GAP_PX), _PAPER_RGB)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=_FONT_PX)
    draw.text((_GAP_PX, 0), title, fill=_TEXT_RGB, font=font)
    for column, (panel, label) in enumerate(zip(panels, ("PyTorch", "file", "differing pixels"), strict=True)):
        left = _GAP_PX + column * (width_px + _GAP_PX)
        draw.text((left, _LINE_PX), label, fill=_TEXT_RGB, font=font)
        canvas.paste(panel, (left, 2 * _LINE_PX + _GAP_PX))
    for row, words in enumerate(_caption(window, expected, given)):
        word_px = float(_GAP_PX)
        for text, color in words:
            draw.text((word_px, (2 + row) * _LINE_PX + height_px + 2 * _GAP_PX), text, fill=color, font=font)
            word_px += draw.textlength(text + "   ", font=font)
    stream = io.BytesIO()
    canvas.save(stream, format="PNG")
    return stream.getvalue()


@dataclass(frozen=True, kw_only=True)
class _Window:
    """The part of a frame that is shown, in frame pixels, the panel's (width, height), the frame's (height, width)."""

    left: int
    top: int
    right: int
    bottom: int
    size_px: tuple[int, int]
    frame_size_px: tuple[int, int]

    @property
    def scale(self) -> float:
        return self.size_px[0] / (self.right - self.left)

    def picture(self, frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        cut = Image.fromarray(frame_HWC).crop((self.left, self.top, self.right, self.bottom))
        filter_ = Image.Resampling.BOX if self.scale < 1 else Image.Resampling.NEAREST
        return np.asarray(cut.resize(self.size_px, filter_))

    def parts(self, parts_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        cut = Image.fromarray(parts_HW).crop((self.left, self.top, self.right, self.bottom))
        return np.asarray(cut.resize(self.size_px, Image.Resampling.NEAREST))

    def marks(self, mask_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Panel pixels that hold any set pixel; a lone one is made large enough to be seen."""
        cut_HW = np.ascontiguousarray(mask_HW[self.top : self.bottom, self.left : self.right])
        filter_ = Image.Resampling.BOX if self.scale < 1 else Image.Resampling.NEAREST
        marks_hw = np.asarray(Image.fromarray(cut_HW.astype(np.float32)).resize(self.size_px, filter_)) > 0
        if self.scale >= 2:
            return marks_hw
        padded_hw = np.pad(marks_hw, 1)
        wide_hw = padded_hw[:, :-2] | padded_hw[:, 1:-1] | padded_hw[:, 2:]
        return np.asarray(wide_hw[:-2] | wide_hw[1:-1] | wide_hw[2:])

    def box(self, box_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        height_px, width_px = self.frame_size_px
        if not np.isfinite(box_xyxy).all():
            return np.zeros(4, np.float32)
        inside_xyxy = np.clip(box_xyxy, 0, (width_px, height_px) * 2)
        return ((inside_xyxy - (self.left, self.top) * 2) * self.scale).astype(np.float32)


def _window(expected: RawAnswer, given: RawAnswer) -> _Window:
    """A square around every part pixel and box of both answers, with some room, as far as the frame goes."""
    height_px, width_px = expected.parts_HW.shape
    seen_HW = (expected.parts_HW | given.parts_HW) > 0
    rows, columns = np.flatnonzero(seen_HW.any(axis=1)), np.flatnonzero(seen_HW.any(axis=0))
    spans = [(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)] if rows.size else []
    spans += [tuple(raw.box_xyxy.tolist()) for raw in (expected, given) if _has_box(raw)]
    if not spans:
        spans = [(0, 0, width_px, height_px)]
    edges = np.clip(np.asarray(spans, np.float64), 0, (width_px, height_px) * 2)
    left, top = edges[:, :2].min(axis=0)
    right, bottom = edges[:, 2:].max(axis=0)
    side_px = max(1.25 * (right - left), 1.25 * (bottom - top), _WINDOW_SHARE_MIN * max(width_px, height_px))
    left, right = _span((left + right) / 2, side_px, width_px)
    top, bottom = _span((top + bottom) / 2, side_px, height_px)
    scale = _PANEL_PX / max(right - left, bottom - top)
    size_px = max(1, round(scale * (right - left))), max(1, round(scale * (bottom - top)))
    return _Window(left=left, top=top, right=right, bottom=bottom, size_px=size_px, frame_size_px=(height_px, width_px))


def _span(middle: float, length_px: float, limit_px: int) -> tuple[int, int]:
    """A stretch of that length around a middle, moved inside 0 to the limit and cut to it."""
    length = min(limit_px, math.ceil(length_px))
    start = min(max(0, round(middle - length / 2)), limit_px - length)
    return start, start + length


def _has_box(raw: RawAnswer) -> bool:
    x_min, y_min, x_max, y_max = raw.box_xyxy.tolist()
    return bool(np.isfinite(raw.box_xyxy).all()) and x_max > x_min and y_max > y_min


def _answer_in(window: _Window, raw: RawAnswer, classes: Sequence[str]) -> Answer:
    """The answer in panel pixels, for the drawing only: unchecked and without flags."""
    index = int(raw.class_probs_L.argmax())
    return Answer(
        class_name=classes[index],
        class_index=index,
        class_probs=raw.class_probs_L,
        classes=tuple(classes),
        box_xyxy=window.box(raw.box_xyxy),
        parts_HW=window.parts(raw.parts_HW),
        health={},
        flags=(),
    )


def _differences(
    frame_HWC: NDArray[np.uint8], expected_HW: NDArray[np.uint8], given_HW: NDArray[np.uint8], window: _Window
) -> NDArray[np.uint8]:
    """The frame in dim grey with the differing pixels marked by kind."""
    grey_hw = window.picture(frame_HWC).mean(axis=2) * 0.7
    canvas_hwC = np.repeat(grey_hw[..., None], 3, axis=2).astype(np.uint8)
    for color, mask_HW in _difference_masks(expected_HW, given_HW):
        canvas_hwC[window.marks(mask_HW)] = color
    return canvas_hwC


def _difference_masks(
    expected_HW: NDArray[np.uint8], given_HW: NDArray[np.uint8]
) -> list[tuple[tuple[int, int, int], NDArray[np.bool_]]]:
    """Pixels that differ: set in both but another part, only PyTorch's, only the file's."""
    differs_HW = expected_HW != given_HW
    return [
        (OTHER_PART_RGB, differs_HW & (expected_HW > 0) & (given_HW > 0)),
        (MISSING_RGB, differs_HW & (given_HW == 0)),
        (EXTRA_RGB, differs_HW & (expected_HW == 0)),
    ]


def _caption(window: _Window, expected: RawAnswer, given: RawAnswer) -> list[list[tuple[str, tuple[int, int, int]]]]:
    """The lines below the panels, each as words with their colours."""
    names = ("of another part", "only in PyTorch's mask", "only in the file's mask")
    masks = _difference_masks(expected.parts_HW, given.parts_HW)
    counts = [
        (f"{np.count_nonzero(mask_HW):,} px {name}", color) for name, (color, mask_HW) in zip(names, masks, strict=True)
    ]
    height_px, width_px = window.frame_size_px
    shown = (
        f"shown: x {window.left} to {window.right}, y {window.top} to {window.bottom} of a frame {width_px} px wide "
        f"and {height_px} px high"
    )
    boxes = "   ".join(
        f"{name} box {', '.join(f'{edge_px:.2f}' for edge_px in raw.box_xyxy.tolist())}"
        for name, raw in (("PyTorch's", expected), ("file's", given))
    )
    return [counts, [(boxes, _TEXT_RGB)], [(shown, _TEXT_RGB)]]


def write_failure_report(output: Path, verdict: VariantParity, picture_png: bytes) -> Path:
    """Leave what a failed certificate found beside the place of the bundle that was not written.

    Args:
        output: Folder that the bundle would have had.
        verdict: Verdict that failed.
        picture_png: Picture from `draw_worst_frame`.

    Returns:
        The folder `<bundle>.parity-failure` with `parity.json` and `worst.png`; an earlier one is replaced.

    Raises:
        OutputError: If it can't be written, or what is there under this name holds anything else.
    """
    place = output.with_name(output.name.removesuffix(SUFFIX) + _FAILURE_SUFFIX)
    partial, earlier = (place.with_name(f"{PARTIAL_PREFIX}{os.getpid()}-{end}-{place.name}") for end in ("new", "old"))
    if place.is_symlink() or (place.exists() and not _is_failure_report(place)):
        raise OutputError(
            f"can't write {place}: something else has this name. Move it away, or choose another --output."
        )
    report = json_from_record(verdict)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        (partial / _REPORT_NAME).write_bytes(report)
        (partial / _PICTURE_NAME).write_bytes(picture_png)
        # A folder can't be renamed over a full one.
        if place.exists():
            place.rename(earlier)
        partial.rename(place)
        shutil.rmtree(earlier, ignore_errors=True)
    except OSError as error:
        if earlier.exists():
            with suppress(OSError):
                earlier.rename(place)
        raise OutputError(f"can't write {place}: {error.strerror or error}. Check the folder and its space.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place


def clear_failure_report(output: Path) -> None:
    """Remove the report of an earlier build of the same bundle that failed, now that one has passed."""
    place = output.with_name(output.name.removesuffix(SUFFIX) + _FAILURE_SUFFIX)
    if not place.is_symlink() and place.exists() and _is_failure_report(place):
        shutil.rmtree(place, ignore_errors=True)


def _is_failure_report(place: Path) -> bool:
    return place.is_dir() and {path.name for path in place.iterdir()} <= {_REPORT_NAME, _PICTURE_NAME}
