"""`spacecompile data` as a user meets it: files, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spacecompile.cli.main import main
from spacecompile.data.labels import LabelledFrame, image_path, mask_path
from spacecompile.data.spark import write_image, write_mask, write_split_csv


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight frames of 96x96 with a body that fills the labelled box."""
    root = tmp_path / "frames"
    frames = []
    for index in range(8):
        class_name = ("Soho", "Cheops")[index % 2]
        frame = LabelledFrame(
            image_path=image_path(root, class_name, "train", f"{index}_img.jpg"),
            mask_path=mask_path(root, class_name, "train", f"{index}_layer.jpg"),
            class_name=class_name,
            box_xyxy=(20, 30, 60, 70),
        )
        write_image(frame.image_path, np.full((96, 96, 3), 10 * index, np.uint8), jpeg_quality=90)
        parts_HW = np.zeros((96, 96), np.uint8)
        parts_HW[30:70, 20:60] = 1
        write_mask(frame.required_mask_path, parts_HW)
        frames.append(frame)
    write_split_csv(root, "train", frames)
    return root


def document_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


@pytest.mark.parametrize("command", ["check", "coco", "bench", "fetch"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", command, "--help"]) == 0
    assert f"Usage: spacecompile data {command}" in capsys.readouterr().out


def test_check_draws_a_sheet_and_gives_what_train_needs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["data", "check", "--data", str(data), "--sheet", str(sheet), "--json", "-"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert (facts["frames"], facts["broken"], facts["box_iou"]["min"]) == (8, [], 1)
    mean = ",".join(f"{value:.3f}" for value in facts["mean"])
    assert f"--mean {mean} --std" in captured.err
    with Image.open(sheet) as image:
        assert image.format == "PNG"
    assert main(["data", "check", "--data", str(data), "--sheet", str(sheet)]) == 2
    assert "--force" in capsys.readouterr().err


def test_check_lists_broken_files_and_then_fails_where_train_would(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images" / "Soho" / "train" / "2_img.jpg").write_bytes(b"no image")
    assert main(["data", "check", "--data", str(data), "--json", "-"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["frames"] == 7
    assert "2_img.jpg is not an image" in captured.err
    assert "1 of 8 frames" in captured.err


def test_coco_writes_a_file_and_keeps_what_is_there(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "train.json"
    arguments = ["data", "coco", "--data", str(data), "-o", str(output)]
    assert main(arguments) == 0
    document = json.loads(output.read_text())
    assert (len(document["images"]), len(document["annotations"])) == (8, 16)
    capsys.readouterr()
    assert main(arguments) == 2
    assert main([*arguments, "--force", "--limit", "2"]) == 0
    assert len(json.loads(output.read_text())["images"]) == 2


def test_bench_compares_threads_and_processes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(data), "--imgsz", "64", "--batch-size", "4", "--duration", "0.05", "--workers", "0,1"]
    assert main(["data", "bench", *arguments, "--augment", "heavy", "--json", "-"]) == 0
    document = document_of(capsys)
    assert [rate["processes"] for rate in document["decode"]] == [0, 1]
    assert all(rate["frames"] >= 4 and rate["frames_per_s"] > 0 for rate in document["decode"])
    assert document["augment"]["augment"] == "heavy"
    assert document["augment"]["frames_per_s"] > 0


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        pytest.param(["check", "--data", "nowhere"], "render -o nowhere", id="no data"),
        pytest.param(["check", "--data", "{data}", "--split", "val"], "val.csv can't be read", id="no split"),
        pytest.param(["bench", "--data", "{data}", "--workers", "two"], "--workers", id="workers"),
        pytest.param(["bench", "--data", "{data}", "--workers", "-1"], "at least 0", id="negative workers"),
        pytest.param(["bench", "--data", "{data}", "--augment", "wild"], "--augment", id="augmentation"),
        pytest.param(["bench", "--data", "{data}", "--duration", "0"], "--duration", id="duration"),
        pytest.param(["coco", "--data", "{data}", "-o", "nowhere/a.json"], "folder does not exist", id="output"),
    ],
)
def test_what_can_not_be_done_is_said_in_a_sentence(
    data: Path,
    arguments: list[str],
    seen: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *(word.format(data=data) for word in arguments)]) == 2
    captured = capsys.readouterr()
    assert seen in captured.err.replace("\n", " ")
    assert "Traceback" not in captured.err
