"""Masks as COCO run lengths: what pycocotools and every annotation tool read.

Source of the format: https://github.com/cocodataset/cocoapi, `rleEncode`, `rleToString` and `rleFrString` in
common/maskApi.c.

Layout legend: H, W frame rows and columns.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

# A character carries five bits of a number, lowest first, a sixth that says whether more follow, and an offset that
# makes it printable. The last five bits carry the sign.
_MORE, _SIGN, _OFFSET = 0x20, 0x10, 48


class Rle(TypedDict):
    """COCO's compressed form.

    `size` is (height, width). `counts` holds the lengths of alternating runs down the columns, the first one of unset
    pixels, from the fourth on as the difference to the one before the last, in characters of six bits.
    """

    size: tuple[int, int]
    counts: str


def rle_from_mask(mask_HW: NDArray[np.bool_]) -> Rle:
    """Run lengths of a mask."""
    flat = mask_HW.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate(([0], changes, [flat.size]))
    runs: list[int] = np.diff(edges).tolist()
    if flat[0]:
        runs.insert(0, 0)
    height_px, width_px = mask_HW.shape
    numbers = (run - runs[place - 2] if place > 2 else run for place, run in enumerate(runs))
    return Rle(size=(height_px, width_px), counts="".join(map(_text_from_number, numbers)))


def mask_from_rle(rle: Rle) -> NDArray[np.bool_]:
    """The mask that the run lengths describe."""
    runs: list[int] = []
    for number in _numbers_from_text(rle["counts"]):
        runs.append(number + runs[-2] if len(runs) > 2 else number)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(rle["size"], order="F")


def _text_from_number(number: int) -> str:
    text = ""
    more = True
    while more:
        bits = number & 0x1F
        number >>= 5
        more = number != (-1 if bits & _SIGN else 0)
        text += chr((bits | _MORE if more else bits) + _OFFSET)
    return text


def _numbers_from_text(text: str) -> list[int]:
    numbers = []
    number, shift = 0, 0
    for character in text:
        bits = ord(character) - _OFFSET
        number |= (bits & 0x1F) << shift
        shift += 5
        if not bits & _MORE:
            numbers.append(number - (1 << shift) if bits & _SIGN else number)
            number, shift = 0, 0
    return numbers
