"""The COCO export, read back by pycocotools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spacecompile.contract import SPARK_CLASSES
from spacecompile.data.coco import coco_document
from spacecompile.data.labels import LabelledFrame, image_path, mask_path
from spacecompile.data.spark import write_image, write_mask

SIZE_PX = (48, 64)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledFrame]:
    """Three frames: body and panel, body alone, no mask; all boxes are looser than the masks."""
    root = tmp_path_factory.mktemp("coco")
    made = []
    for index, class_name in enumerate(("Soho", "Cheops", "XMM Newton")):
        frame = LabelledFrame(
            image_path=image_path(root, class_name, "val", f"{index}_img.jpg"),
            mask_path=mask_path(root, class_name, "val", f"{index}_layer.jpg") if index < 2 else None,
            class_name=class_name,
            box_xyxy=(8, 6, 50 + index, 40),
        )
        write_image(frame.image_path, np.full((*SIZE_PX, 3), 40 * index, np.uint8), jpeg_quality=90)
        if frame.mask_path:
            write_mask(frame.mask_path, parts_of(index))
        made.append(frame)
    return made


def parts_of(index: int) -> np.ndarray:
    parts_HW = np.zeros(SIZE_PX, np.uint8)
    parts_HW[8:30, 10:32] = 1
    if index == 0:
        parts_HW[12:38, 32:48] = 2
    return parts_HW


def loaded(frames: list[LabelledFrame], tmp_path: Path) -> tuple[COCO, dict[str, Any]]:
    root = frames[0].image_path.parents[3]
    document, broken = coco_document(frames, classes=SPARK_CLASSES, root=root, description="test", threads=2)
    assert broken == ()
    (tmp_path / "val.json").write_bytes(msgspec.json.encode(document))
    return COCO(tmp_path / "val.json"), document


# pycocotools hands numpy an array in a way that numpy 2 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_boxes_masks_and_classes(frames: list[LabelledFrame], tmp_path: Path) -> None:
    coco, _ = loaded(frames, tmp_path)
    names = {entry["id"]: entry["name"] for entry in coco.loadCats(coco.getCatIds())}
    assert list(names.values()) == [*SPARK_CLASSES, "body", "panel"]
    for index, image in enumerate(coco.loadImgs(coco.getImgIds())):
        assert (image["height"], image["width"]) == SIZE_PX
        annotations = {names[entry["category_id"]]: entry for entry in coco.loadAnns(coco.getAnnIds(image["id"]))}
        craft = annotations.pop(frames[index].class_name)
        assert craft["bbox"] == [8, 6, 42 + index, 34]
        if index < 2:
            np.testing.assert_array_equal(coco.annToMask(craft), parts_of(index) > 0)
            np.testing.assert_array_equal(coco.annToMask(annotations["body"]), parts_of(index) == 1)
            assert annotations["body"]["bbox"] == [10, 8, 22, 22]
            assert annotations["body"]["area"] == 22 * 22
    assert image["file_name"] == "images/XMM Newton/val/2_img.jpg"


def test_only_parts_that_can_be_seen_are_annotated(frames: list[LabelledFrame], tmp_path: Path) -> None:
    coco, _ = loaded(frames, tmp_path)
    assert [len(coco.getAnnIds(image)) for image in coco.getImgIds()] == [3, 2, 1]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_labels_themselves_are_a_perfect_answer(
    frames: list[LabelledFrame], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    coco, document = loaded(frames[:2], tmp_path)
    answers = [{**entry, "score": 1.0} for entry in document["annotations"]]
    evaluation = COCOeval(coco, coco.loadRes(answers), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_a_damaged_mask_is_left_out_and_named(frames: list[LabelledFrame], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    many = [*frames[:2] * 51]
    many[7] = LabelledFrame(
        image_path=frames[0].image_path, mask_path=broken, class_name="Soho", box_xyxy=frames[0].box_xyxy
    )
    root = frames[0].image_path.parents[3]
    document, left_out = coco_document(many, classes=SPARK_CLASSES, root=root, description="test")
    assert len(document["images"]) == 101
    (entry,) = left_out
    assert "broken.jpg is not an image" in entry.reason
