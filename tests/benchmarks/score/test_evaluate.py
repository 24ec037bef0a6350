from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spacecompile.benchmarks.agreement import Answered
from spacecompile.benchmarks.frame_stream import labelled_frames, stream_from_data
from spacecompile.benchmarks.score.evaluate import charged_score, check_frames, evaluate, score_drop
from spacecompile.contract import Cost, ModelSpec
from spacecompile.data.labels import SPARK_2022_CLASSES, LabelledFrame
from spacecompile.data.spark import write_mask, write_split_csv
from spacecompile.errors import DataError, UsageError
from spacecompile.metrics import Scores

SPEC = ModelSpec(input_size_px=(64, 64), frame_size_px=(96, 128))
COST = Cost(params=3_000_000, macs_fvcore=10_000_000_000, macs_torch=0)
CLASSES = ("Cheops", "Soho", "Proba2", "XMM Newton")


def labels_of(index: int) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    parts_HW = np.zeros((96, 128), np.uint8)
    parts_HW[16:48, 16 : 48 + 8 * index] = 1
    parts_HW[48:64, 16:48] = 2
    return parts_HW, (16, 16, 48 + 8 * index, 64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames; the value of the first pixel says which one it is."""
    root = tmp_path_factory.mktemp("data")
    frames = []
    for index, class_name in enumerate(CLASSES):
        image_path = root / "images" / class_name / "val" / f"{index}_img.png"
        mask_path = root / "mask" / class_name / "val" / f"{index}_layer.jpg"
        image_path.parent.mkdir(parents=True)
        Image.fromarray(np.full((96, 128, 3), index, np.uint8)).save(image_path)
        parts_HW, box_xyxy = labels_of(index)
        write_mask(mask_path, parts_HW)
        frames.append(
            LabelledFrame(image_path=image_path, mask_path=mask_path, class_name=class_name, box_xyxy=box_xyxy)
        )
    write_split_csv(root, "val", frames)
    return root


def right_answer(frame_HWC: NDArray[np.uint8]) -> Answered:
    index = int(frame_HWC[0, 0, 0])
    parts_HW, box_xyxy = labels_of(index)
    probs_L = np.zeros(len(SPEC.classes), np.float32)
    probs_L[SPEC.classes.index(CLASSES[index])] = 1
    return Answered(class_probs_L=probs_L, parts_HW=parts_HW, box_xyxy=np.asarray(box_xyxy, np.float32))


def test_right_answers_score_one_and_only_cost_is_charged(data: Path) -> None:
    scores = evaluate(right_answer, labelled_frames(data, "val", None), spec=SPEC, cost=COST)
    assert (scores.s_cls, scores.s_det, scores.s_seg, scores.s_acc) == (1, 1, 1, 1)
    assert scores.s_final == pytest.approx(0.70 + 0.15 * 0.9 + 0.15 * 0.9)
    assert scores.frames == 4


def test_each_wrong_answer_lowers_its_own_score(data: Path) -> None:
    def wrong_class_once(frame_HWC: NDArray[np.uint8]) -> Answered:
        answer = right_answer(frame_HWC)
        probs_L = np.roll(answer.class_probs_L, 1) if frame_HWC[0, 0, 0] == 2 else answer.class_probs_L
        return Answered(class_probs_L=probs_L, parts_HW=answer.parts_HW, box_xyxy=np.zeros(4, np.float32))

    scores = evaluate(wrong_class_once, labelled_frames(data, "val", None), spec=SPEC, cost=COST)
    assert (scores.s_cls, scores.s_det, scores.s_seg) == (0.75, 0, 1)
    assert scores.per_class["Proba2"].s_cls == 0


def test_progress_counts_the_frames(data: Path) -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(
        right_answer,
        labelled_frames(data, "val", None),
        spec=SPEC,
        cost=COST,
        step="score fp32",
        progress=lambda *step: told.append(step),
    )
    assert told == [("score fp32", done, 4) for done in range(5)]


def test_a_label_that_the_network_does_not_know_is_refused(data: Path) -> None:
    spec = ModelSpec(classes=("Cheops", "Soho"), input_size_px=(64, 64), frame_size_px=(96, 128))
    with pytest.raises(DataError, match=r"Proba2, XMM Newton.*knows Cheops, Soho"):
        evaluate(right_answer, labelled_frames(data, "val", None), spec=spec, cost=COST)


def test_a_frame_of_another_size_is_refused(data: Path) -> None:
    with pytest.raises(DataError, match=r"96x128.*64x64"):
        stream_from_data(data, "val", (64, 64), 4)


@pytest.mark.parametrize(("limit", "indices"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (9, [0, 1, 2, 3])])
def test_a_limit_spreads_over_the_split(data: Path, limit: int, indices: list[int]) -> None:
    stream = stream_from_data(data, "val", (96, 128), limit)
    assert [int(frame_HWC[0, 0, 0]) for frame_HWC in stream.frames_HWC] == indices
    assert len(stream.names) == len(indices)


def test_a_limit_below_one_is_refused(data: Path) -> None:
    with pytest.raises(UsageError, match="--limit"):
        labelled_frames(data, "val", 0)


SCORES = Scores(s_cls=0.9, s_det=0.9, s_seg=0.9, s_acc=0.9, s_flops=0.9, s_params=0.9, s_final=0.9, frames=10)


def test_the_benchmark_charges_one_view_and_the_charged_score_all() -> None:
    one_view = 0.70 * 0.9 + 0.15 * (1 - 10 / 100) + 0.15 * (1 - 3 / 30)
    assert charged_score(SCORES, COST, "none") == pytest.approx(one_view)
    assert charged_score(SCORES, COST, "d4") == pytest.approx(one_view - 0.15 * 70 / 100)
    assert charged_score(SCORES, COST, "d4-median") == charged_score(SCORES, COST, "d4")


def test_a_drop_is_that_of_the_answers_whatever_the_networks_cost() -> None:
    cheaper = msgspec.structs.replace(SCORES, s_acc=0.89, s_flops=0.99, s_final=0.91)
    assert score_drop(cheaper, SCORES) == pytest.approx(0.007)
    assert score_drop(SCORES, cheaper) == pytest.approx(-0.007)


NUM_UNMASKED = 110
UNMASKED_SPEC = ModelSpec(classes=SPARK_2022_CLASSES, input_size_px=(64, 64), frame_size_px=(32, 40))


@pytest.fixture
def unmasked(tmp_path: Path) -> list[LabelledFrame]:
    """Frames in the SPARK 2022 format, whose boxes all are the same."""
    rows = ["filename,class,bbox"]
    (tmp_path / "val").mkdir()
    for index in range(NUM_UNMASKED):
        Image.fromarray(np.full((32, 40, 3), index, np.uint8)).save(tmp_path / "val" / f"{index}.png")
        rows.append(f'{index}.png,{SPARK_2022_CLASSES[index % 11]},"[4, 8, 20, 30]"')
    (tmp_path / "val.csv").write_text("\n".join(rows), encoding="utf-8")
    return labelled_frames(tmp_path, "val", None)


def unmasked_answer(frame_HWC: NDArray[np.uint8]) -> Answered:
    probs_L = np.eye(11, dtype=np.float32)[frame_HWC[0, 0, 0] % 11]
    return Answered(
        class_probs_L=probs_L, parts_HW=np.ones((32, 40), np.uint8), box_xyxy=np.array([8, 4, 30, 20], np.float32)
    )


def test_frames_without_masks_are_scored_by_class_and_box(unmasked: list[LabelledFrame]) -> None:
    check_frames(unmasked, UNMASKED_SPEC)
    scores = evaluate(unmasked_answer, unmasked, spec=UNMASKED_SPEC, cost=COST)
    assert (scores.s_cls, scores.s_det, scores.s_seg, scores.frames) == (1, 1, 0, NUM_UNMASKED)


@pytest.mark.parametrize("kept_bytes", [pytest.param(0, id="header"), pytest.param(-30, id="pixels")])
def test_one_broken_frame_in_a_hundred_is_left_out(unmasked: list[LabelledFrame], kept_bytes: int) -> None:
    noise_HWC = np.random.default_rng(0).integers(0, 255, (32, 40, 3)).astype(np.uint8)
    Image.fromarray(noise_HWC).save(unmasked[7].image_path)
    unmasked[7].image_path.write_bytes(unmasked[7].image_path.read_bytes()[:kept_bytes])
    told: list[tuple[str, int, int]] = []
    scores = evaluate(
        unmasked_answer, unmasked, spec=UNMASKED_SPEC, cost=COST, progress=lambda *step: told.append(step)
    )
    assert (scores.frames, scores.s_cls) == (NUM_UNMASKED - 1, 1)
    assert told[-1] == ("score", NUM_UNMASKED, NUM_UNMASKED)


def test_more_broken_frames_are_refused_before_any_answer(unmasked: list[LabelledFrame]) -> None:
    for frame in unmasked[3:5]:
        frame.image_path.write_bytes(b"")
    with pytest.raises(DataError, match="2 of 110 frames of the frames to score are broken"):
        evaluate(lambda _: pytest.fail("answered"), unmasked, spec=UNMASKED_SPEC, cost=COST)


def test_a_mask_of_another_size_is_a_broken_frame(data: Path) -> None:
    frames = labelled_frames(data, "val", None)
    write_mask(data / "small.jpg", np.zeros((8, 8), np.uint8))
    odd = LabelledFrame(
        image_path=frames[0].image_path, mask_path=data / "small.jpg", class_name="Cheops", box_xyxy=(0, 0, 9, 9)
    )
    with pytest.raises(DataError, match=r"1 of 5 frames.*small\.jpg has 8x8 pixels and its frame 96x128"):
        check_frames([*frames, odd], SPEC)
