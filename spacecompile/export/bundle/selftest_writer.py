"""Putting a few frames with PyTorch's answers into the bundle, for `runtime.selftest` on the target."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spacecompile.contract import Tta
from spacecompile.data.labels import spread
from spacecompile.export.bundle.writer import BundleWriter
from spacecompile.export.parity.reference import ExpectedAnswer
from spacecompile.runtime.selftest import EXPECTED_PATH, Selftest, stored_answer

NUM_FRAMES = 4
# Noise does not compress: one such frame would weigh as much as all the others.
_LEFT_OUT = frozenset({"noise"})


def write_selftest(writer: BundleWriter, expected: Mapping[Tta, Sequence[ExpectedAnswer]]) -> None:
    """Choose frames that every augmentation has an answer to, real ones first, and write them with their answers.

    Args:
        writer: Writer of the bundle.
        expected: PyTorch's answers by test-time augmentation, at least one.
    """
    by_name = {tta: {case.frame.name: case for case in cases} for tta, cases in expected.items()}
    shared = [
        case.frame
        for case in next(iter(expected.values()))
        if case.frame.name not in _LEFT_OUT and all(case.frame.name in names for names in by_name.values())
    ]
    natural = [frame for frame in shared if frame.kind != "adversarial"]
    artificial = [frame for frame in shared if frame.kind == "adversarial"]
    chosen = spread(natural, NUM_FRAMES - 1)
    chosen += spread(artificial, NUM_FRAMES - len(chosen))
    paths = {frame.name: f"selftest/frame-{index}.png" for index, frame in enumerate(chosen)}
    for frame in chosen:
        writer.write(paths[frame.name], _png(frame.frame_HWC))
    answers = {
        tta: tuple(
            stored_answer(
                path,
                class_probs_L=cases[name].answer.class_probs_L,
                parts_HW=cases[name].answer.parts_HW,
                box_xyxy=cases[name].answer.box_xyxy,
                adversarial=cases[name].frame.kind == "adversarial",
            )
            for name, path in paths.items()
        )
        for tta, cases in by_name.items()
    }
    writer.write(EXPECTED_PATH, msgspec.json.encode(Selftest(answers=answers), order="deterministic"))


def _png(frame_HWC: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame_HWC).save(stream, format="PNG")
    return stream.getvalue()
