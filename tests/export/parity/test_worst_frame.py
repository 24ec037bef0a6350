from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spacecompile.contract import Tolerance
from spacecompile.errors import OutputError
from spacecompile.export.parity.frame_set import ParityFrame
from spacecompile.export.parity.reference import ExpectedAnswer
from spacecompile.export.parity.verdict import VariantParity, verdict_on
from spacecompile.export.parity.worst_frame import (
    EXTRA_RGB,
    MISSING_RGB,
    OTHER_PART_RGB,
    draw_answers,
    draw_worst_frame,
    worst_frame,
    write_failure_report,
)
from spacecompile.runtime.backend import RawAnswer
from spacecompile.runtime.overlay import BODY_RGB, BOX_RGB, PANEL_RGB

CLASSES = ("Cheops", "Soho", "Smart1")
TOLERANCE = Tolerance(class_agreement_min=1.0, class_probs_max=0.01, parts_iou_min=0.9, box_px_max=2.0)
SIZE = (200, 300)


def raw_answer(**changes: Any) -> RawAnswer:
    parts_HW = np.zeros(SIZE, np.uint8)
    parts_HW[60:100, 100:140] = 1
    parts_HW[70:90, 140:180] = 2
    fields: dict[str, Any] = {
        "class_probs_L": np.array([0.2, 0.7, 0.1], np.float32),
        "parts_HW": parts_HW,
        "box_xyxy": np.array([100, 60, 180, 100], np.float32),
        "health": np.array([10, 200, 1600, 800, 0.9, 0], np.float32),
    }
    fields |= changes
    if "parts_HW" in changes:
        body_px, panel_px = (np.count_nonzero(changes["parts_HW"] >> bit & 1) for bit in (0, 1))
        fields["health"] = np.array([10, 200, body_px, panel_px, 0.9, 0], np.float32)
    return RawAnswer(**fields)


def with_parts(window: tuple[slice, slice], bits: int) -> RawAnswer:
    parts_HW = raw_answer().parts_HW.copy()
    parts_HW[window] = bits
    return raw_answer(parts_HW=parts_HW)


def cases(count: int) -> list[ExpectedAnswer]:
    frame_HWC = np.full((*SIZE, 3), 30, np.uint8)
    return [
        ExpectedAnswer(
            frame=ParityFrame(name=f"frame-{index}", kind="real", frame_HWC=frame_HWC),
            answer=raw_answer(),
            boxes_B4=raw_answer().box_xyxy[None],
            undecided_HW=np.zeros(SIZE, np.uint8),
        )
        for index in range(count)
    ]


def judged(*given: RawAnswer, tolerance: Tolerance = TOLERANCE) -> VariantParity:
    return verdict_on(
        "int8",
        backend="test",
        sha256="0" * 64,
        expected=cases(len(given)),
        given=given,
        tolerance=tolerance,
    )


def drawn(given: RawAnswer, frame_HWC: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    frame_HWC = cases(1)[0].frame.frame_HWC if frame_HWC is None else frame_HWC
    png = draw_answers(frame_HWC, expected=raw_answer(), given=given, classes=CLASSES, title="int8, frame-0")
    return np.asarray(Image.open(io.BytesIO(png)))


def panel(picture_HWC: NDArray[np.uint8], column: int) -> NDArray[np.uint8]:
    """One of the three panels, without the captions."""
    width_px = picture_HWC.shape[1] // 3
    return picture_HWC[42:-100, column * width_px : (column + 1) * width_px]


def count(picture_HWC: NDArray[np.uint8], color: tuple[int, int, int]) -> int:
    return int((picture_HWC == color).all(axis=2).sum())


SLIGHT_PROBS = raw_answer(class_probs_L=np.array([0.205, 0.695, 0.1], np.float32))
OTHER_CLASS = raw_answer(class_probs_L=np.array([0.7, 0.2, 0.1], np.float32))
OFF_BOX = raw_answer(box_xyxy=np.array([100, 60, 187, 100], np.float32))
FEWER_PARTS = with_parts(np.s_[60:90, 100:140], 0)


@pytest.mark.parametrize(
    ("given", "worst"),
    [
        pytest.param([OFF_BOX, OTHER_CLASS, FEWER_PARTS], 1, id="another class comes first"),
        pytest.param([SLIGHT_PROBS, OFF_BOX, raw_answer()], 1, id="box"),
        pytest.param([SLIGHT_PROBS, OFF_BOX, FEWER_PARTS], 2, id="parts use up more of their limit than the box"),
        pytest.param([raw_answer(), SLIGHT_PROBS], 1, id="passed, and still one is the furthest"),
    ],
)
def test_the_worst_frame_is_the_one_that_uses_up_most_of_a_limit(given: list[RawAnswer], worst: int) -> None:
    assert worst_frame(judged(*given)) == f"frame-{worst}"


def test_a_limit_of_zero_is_used_up_by_any_error() -> None:
    exact = Tolerance(class_agreement_min=0.0, class_probs_max=1.0, parts_iou_min=1.0, box_px_max=1.0)
    one_px = with_parts(np.s_[60, 100], 0)
    assert worst_frame(judged(OFF_BOX, one_px, tolerance=exact)) == "frame-1"


def test_both_answers_are_drawn_and_only_the_differing_pixels_marked() -> None:
    picture = drawn(with_parts(np.s_[60:100, 100:110], 0))
    assert picture.shape[1] <= 1024
    for column in (0, 1):
        assert count(panel(picture, column), BOX_RGB) > 100
        assert count(panel(picture, column), BODY_RGB) > 50
        assert count(panel(picture, column), PANEL_RGB) > 50
    marked = (panel(picture, 2) == MISSING_RGB).all(axis=2)
    rows, columns = np.argwhere(marked).min(axis=0), np.argwhere(marked).max(axis=0)
    height_px, width_px = columns - rows + 1
    assert marked.sum() == height_px * width_px
    assert height_px / width_px == pytest.approx(4, rel=0.1)
    assert count(panel(picture, 0), MISSING_RGB) == 0


@pytest.mark.parametrize(
    ("given", "color"),
    [
        pytest.param(with_parts(np.s_[60:70, 100:110], 0), MISSING_RGB, id="missing"),
        pytest.param(with_parts(np.s_[30:40, 100:110], 1), EXTRA_RGB, id="extra"),
        pytest.param(with_parts(np.s_[60:70, 100:110], 2), OTHER_PART_RGB, id="another part"),
    ],
)
def test_each_kind_of_difference_has_its_colour(given: RawAnswer, color: tuple[int, int, int]) -> None:
    differing = panel(drawn(given), 2)
    assert count(differing, color) > 100
    assert sum(count(differing, other) for other in {MISSING_RGB, EXTRA_RGB, OTHER_PART_RGB} - {color}) == 0


def test_one_differing_pixel_of_a_large_frame_is_seen() -> None:
    parts_HW = np.zeros((2048, 2048), np.uint8)
    parts_HW[100:1900, 100:1900] = 1
    box_xyxy = np.array([100, 100, 1900, 1900], np.float32)
    whole, holed = (raw_answer(parts_HW=parts_HW.copy(), box_xyxy=box_xyxy) for _ in range(2))
    holed.parts_HW[1000, 1001] = 0
    frame_HWC = np.zeros((2048, 2048, 3), np.uint8)
    png = draw_answers(frame_HWC, expected=whole, given=holed, classes=CLASSES, title="")
    assert count(panel(np.asarray(Image.open(io.BytesIO(png))), 2), MISSING_RGB) >= 9


@pytest.mark.parametrize(
    "given",
    [
        raw_answer(box_xyxy=np.full(4, np.nan, np.float32), class_probs_L=np.full(3, np.nan, np.float32)),
        raw_answer(box_xyxy=np.array([-1e9, -5, 1e9, 1e9], np.float32)),
        raw_answer(box_xyxy=np.zeros(4, np.float32), parts_HW=np.zeros(SIZE, np.uint8)),
        with_parts(np.s_[:, :], 3),
    ],
    ids=["not a number", "a box far outside", "nothing", "everything"],
)
def test_an_answer_that_is_nonsense_is_drawn_too(given: RawAnswer) -> None:
    assert count(panel(drawn(given), 0), BOX_RGB) > 20


def test_two_empty_answers_show_the_whole_frame() -> None:
    empty = raw_answer(box_xyxy=np.zeros(4, np.float32), parts_HW=np.zeros(SIZE, np.uint8))
    frame_HWC = np.full((*SIZE, 3), 200, np.uint8)
    png = draw_answers(frame_HWC, expected=empty, given=empty, classes=CLASSES, title="int8")
    picture = np.asarray(Image.open(io.BytesIO(png)))
    assert count(picture, BOX_RGB) == 0
    assert count(picture, (140, 140, 140)) == pytest.approx(336 * 224, rel=0.02)


def test_the_worst_frame_of_a_verdict_is_answered_again_and_drawn() -> None:
    asked = []

    def answer(frame_HWC: NDArray[np.uint8]) -> RawAnswer:
        asked.append(frame_HWC)
        return OFF_BOX

    expected = cases(2)
    png = draw_worst_frame(judged(raw_answer(), OFF_BOX), expected, answer, classes=CLASSES)
    assert len(asked) == 1 and asked[0] is expected[1].frame.frame_HWC
    assert png.startswith(b"\x89PNG")


def test_the_failure_report_lies_beside_the_bundle_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    output = tmp_path / "net.spacepkg"
    first = write_failure_report(output, judged(raw_answer()), b"first")
    verdict = judged(OTHER_CLASS)
    assert write_failure_report(output, verdict, b"second") == first == tmp_path / "net.parity-failure"
    assert {path.name for path in first.iterdir()} == {"parity.json", "worst.png"}
    assert (first / "worst.png").read_bytes() == b"second"
    assert json.loads((first / "parity.json").read_bytes())["failures"] == list(verdict.failures)
    assert [path.name for path in tmp_path.iterdir()] == ["net.parity-failure"]


def test_what_is_no_failure_report_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "net.parity-failure"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="something else has this name"):
        write_failure_report(tmp_path / "net.spacepkg", judged(OTHER_CLASS), b"png")
    assert (mine / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["net.parity-failure"]


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match=r"can't write .*net\.parity-failure"):
        write_failure_report(tmp_path / "file" / "net.spacepkg", judged(OTHER_CLASS), b"png")
