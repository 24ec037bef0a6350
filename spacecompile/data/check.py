"""What is in a data set: classes, sizes, brightness, and how labelled boxes lie around the masks.

Layout legend: N frames, C channels (RGB), H W frame rows and columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spacecompile.contract import PARTS, Progress, no_progress
from spacecompile.data.broken import BrokenFile, refuse_too_many
from spacecompile.data.labels import LabelledFrame, Split
from spacecompile.data.spark import read_frame_HWC, read_parts_HW, tight_box
from spacecompile.errors import DataError, FrameError
from spacecompile.record import Record

_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_SIDES = ("left", "top", "right", "bottom")


class Spread(Record):
    """Smallest, 5 %, median, 95 % and largest of some values, and their mean."""

    min: float
    p05: float
    median: float
    p95: float
    max: float
    mean: float


class PartFacts(Record):
    """How often one part is seen, and how large.

    Attributes:
        frames: Number of frames that show the part.
        share: Share of the frame's pixels over the frames that show the part; None where none does.
    """

    frames: int
    share: Spread | None


class SplitFacts(Record):
    """What a split holds.

    Attributes:
        format: Name of the format of the csv.
        frames: Number of frames that could be read.
        broken: Reason for each frame that could not be read.
        classes: Number of frames per class, in the order of the format.
        sizes: Number of frames per size, as HEIGHTxWIDTH.
        mean, std: Mean and standard deviation of all pixels per RGB channel, scaled to 0..1, for `train --mean --std`.
        brightness: Mean grey level of a frame, 0 to 255.
        saturated_share: Share of a frame's pixels with a channel at 255.
        craft_size: Square root of the labelled box's share of the frame, 0 to 1.
        parts: Facts by part; empty where no frame has a mask.
        margins_px: Pixels by side that the labelled box reaches beyond the mask's; negative where it cuts.
        box_iou: IoU of the labelled and the mask's box: what a perfect mask scores without a margin.
        without_parts: Number of frames whose mask is empty.
        outside_box_share: Share of frames with mask pixels outside the labelled box.
        box_outside: Number of frames whose labelled box leaves the frame.
    """

    format: str
    frames: int
    broken: tuple[str, ...]
    classes: dict[str, int]
    sizes: dict[str, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    brightness: Spread
    saturated_share: Spread
    craft_size: Spread
    parts: dict[str, PartFacts]
    margins_px: dict[str, Spread]
    box_iou: Spread | None
    without_parts: int
    outside_box_share: float
    box_outside: int


@dataclass(frozen=True, kw_only=True)
class _FrameFacts:
    """Facts of one frame; sums are of grey levels 0 to 255 per channel."""

    size_px: tuple[int, int]
    sum_C: NDArray[np.float64]
    square_sum_C: NDArray[np.float64]
    saturated_share: float
    parts_px: tuple[int, ...]
    mask_box_xyxy: tuple[int, int, int, int] | None


def check_split(
    split: Split, *, frames: Sequence[LabelledFrame], threads: int = 1, progress: Progress = no_progress
) -> SplitFacts:
    """Decode frames and masks and describe them. Every broken one is listed, however many they are.

    Args:
        split: Split, for its format and its missing files.
        frames: Frames of the split to decode.
        threads: Number of threads that decode.
        progress: Callback for progress.

    Raises:
        DataError: If no frame can be read.
    """
    read: list[tuple[LabelledFrame, _FrameFacts]] = []
    broken = list(split.broken)
    with ThreadPoolExecutor(threads) as pool:
        for done, (frame, facts) in enumerate(zip(frames, pool.map(_facts_of, frames), strict=True), start=1):
            if isinstance(facts, BrokenFile):
                broken.append(facts)
            else:
                read.append((frame, facts))
            progress("frames", done, len(frames))
    if not read:
        refuse_too_many([entry.reason for entry in broken], len(broken), name="the split")
        raise DataError("no frame was asked for. Raise --limit.")
    return _split_facts(split, read, broken)


def _split_facts(
    split: Split, read: Sequence[tuple[LabelledFrame, _FrameFacts]], broken: Sequence[BrokenFile]
) -> SplitFacts:
    facts = [entry for _, entry in read]
    counts = Counter(frame.class_name for frame, _ in read)
    mean_C, std_C = _mean_and_std(facts)
    margins_N4, ious_N = _box_margins(read)
    levels_N = [float(entry.sum_C.mean()) / (entry.size_px[0] * entry.size_px[1]) for entry in facts]
    masked = [entry for frame, entry in read if frame.has_parts]
    return SplitFacts(
        format=split.format.name,
        frames=len(read),
        broken=tuple(entry.reason for entry in broken),
        classes={name: counts[name] for name in split.format.classes},
        sizes=dict(Counter("{}x{}".format(*entry.size_px) for entry in facts).most_common()),
        mean=mean_C,
        std=std_C,
        brightness=_spread(levels_N),
        saturated_share=_spread([entry.saturated_share for entry in facts]),
        craft_size=_spread([_craft_size(frame, entry) for frame, entry in read]),
        parts={part: _part_facts(masked, bit) for bit, part in enumerate(PARTS)} if masked else {},
        margins_px={side: _spread(margins_N4[:, axis]) for axis, side in enumerate(_SIDES)} if len(ious_N) else {},
        box_iou=_spread(ious_N) if len(ious_N) else None,
        without_parts=sum(entry.mask_box_xyxy is None for entry in masked),
        outside_box_share=float((margins_N4 < 0).any(axis=1).mean()) if len(ious_N) else 0.0,
        box_outside=sum(
            frame.box_xyxy[2] > entry.size_px[1] or frame.box_xyxy[3] > entry.size_px[0] for frame, entry in read
        ),
    )


def _facts_of(frame: LabelledFrame) -> _FrameFacts | BrokenFile:
    try:
        frame_HWC = read_frame_HWC(frame.image_path)
        parts_HW = read_parts_HW(frame, frame_HWC.shape[:2])
    except (FrameError, DataError) as error:
        return BrokenFile(path=frame.image_path, reason=str(error))
    size_px = (frame_HWC.shape[0], frame_HWC.shape[1])
    # Sums from a histogram per channel: exact, and no float copy of the frame.
    counts_CL = np.stack([np.bincount(frame_HWC[..., channel].ravel(), minlength=256) for channel in range(3)])
    levels_L = np.arange(256, dtype=np.float64)
    return _FrameFacts(
        size_px=size_px,
        sum_C=counts_CL @ levels_L,
        square_sum_C=counts_CL @ levels_L**2,
        saturated_share=float((frame_HWC == 255).any(axis=2).mean()),
        parts_px=tuple(0 if parts_HW is None else int(np.count_nonzero(parts_HW & (1 << bit))) for bit in range(2)),
        mask_box_xyxy=None if parts_HW is None else tight_box(parts_HW),
    )


def _mean_and_std(facts: Sequence[_FrameFacts]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    pixels = sum(height * width for height, width in (entry.size_px for entry in facts))
    mean_C = np.sum([entry.sum_C for entry in facts], axis=0) / pixels / 255
    square_C = np.sum([entry.square_sum_C for entry in facts], axis=0) / pixels / 255**2
    std_C = np.sqrt(np.maximum(square_C - mean_C**2, 0))
    red, green, blue = (round(float(value), 4) for value in mean_C)
    red_std, green_std, blue_std = (round(float(value), 4) for value in std_C)
    return (red, green, blue), (red_std, green_std, blue_std)


def _box_margins(
    read: Sequence[tuple[LabelledFrame, _FrameFacts]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Margins [N, 4] and IoUs [N] of the frames that have a mask with pixels."""
    margins, ious = [], []
    for frame, facts in read:
        if facts.mask_box_xyxy is None:
            continue
        label_4, mask_4 = np.array(frame.box_xyxy, float), np.array(facts.mask_box_xyxy, float)
        margins.append([*(mask_4 - label_4)[:2], *(label_4 - mask_4)[2:]])
        common_2 = np.maximum(np.minimum(label_4[2:], mask_4[2:]) - np.maximum(label_4[:2], mask_4[:2]), 0)
        areas = [float(np.prod(box_4[2:] - box_4[:2])) for box_4 in (label_4, mask_4)]
        ious.append(float(common_2.prod()) / (sum(areas) - float(common_2.prod())))
    return np.array(margins).reshape(-1, 4), np.array(ious)


def _craft_size(frame: LabelledFrame, facts: _FrameFacts) -> float:
    x_min, y_min, x_max, y_max = frame.box_xyxy
    return float(np.sqrt((x_max - x_min) * (y_max - y_min) / (facts.size_px[0] * facts.size_px[1])))


def _part_facts(masked: Sequence[_FrameFacts], bit: int) -> PartFacts:
    shares = [entry.parts_px[bit] / (entry.size_px[0] * entry.size_px[1]) for entry in masked if entry.parts_px[bit]]
    return PartFacts(frames=len(shares), share=_spread(shares) if shares else None)


def _spread(values: Sequence[float] | NDArray[np.float64]) -> Spread:
    low, p05, median, p95, high = (round(float(value), 6) for value in np.quantile(np.asarray(values), _QUANTILES))
    return Spread(min=low, p05=p05, median=median, p95=p95, max=high, mean=round(float(np.mean(values)), 6))
