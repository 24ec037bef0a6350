from __future__ import annotations

import ast
import csv
import io
import json
import os
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spacecompile.cli.main import main
from spacecompile.errors import OutputError
from spacecompile.rle import mask_from_rle
from spacecompile.runtime.bundle import open_bundle
from spacecompile.runtime.frame_reader import FrameReader
from spacecompile.runtime.session import load

MakeFrames = Callable[..., Path]


@pytest.fixture
def make_frames(tmp_path: Path, tiny_bundle: Path) -> MakeFrames:
    """A folder of frames of the bundle's size, one per relative name, the same ones each time."""

    def make(*names: str) -> Path:
        randomness = np.random.default_rng(5)
        for name in names:
            frame_HWC = np.zeros((*open_bundle(tiny_bundle).manifest.spec.frame_size_px, 3), np.uint8)
            frame_HWC[20:90, 30:110] = randomness.integers(0, 256, (70, 80, 3))
            (tmp_path / "frames" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame_HWC).save(tmp_path / "frames" / name)
        return tmp_path / "frames"

    return make


def predict(bundle: Path, *arguments: str | Path) -> int:
    return main(["predict", str(bundle), *map(str, arguments)])


def answers_in(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "answers.json").read_bytes())
    return content


def test_a_folder_gives_overlays_and_one_json(tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path) -> None:
    assert predict(tiny_bundle, make_frames("b.png", "a.png"), "-o", tmp_path / "out") == 0
    document = answers_in(tmp_path / "out")
    assert [answer["image"] for answer in document["answers"]] == ["a.png", "b.png"]
    assert document["failed"] == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_overlay.jpg",
        "answers.json",
        "b_overlay.jpg",
    ]
    with Image.open(tmp_path / "out" / "a_overlay.jpg") as overlay:
        assert [overlay.height, overlay.width] == document["frame_size_px"]


def test_the_json_holds_what_the_session_answers(tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path) -> None:
    folder = make_frames("a.png")
    assert predict(tiny_bundle, folder, "-o", tmp_path / "out", "--tta", "d4", "--threads", "1") == 0
    document = answers_in(tmp_path / "out")
    with load(tiny_bundle, tta="d4", threads=1) as session:
        answer = session(folder / "a.png")
    (record,) = document["answers"]
    expected = json.loads(json.dumps(answer.to_dict(masks=True)))
    assert record == {"image": "a.png", "overlay": "a_overlay.jpg"} | expected
    np.testing.assert_array_equal(mask_from_rle(record["parts_rle"]["body"]), answer.body_HW)
    assert document["choice"]["variant"] == "fp32-d4"
    assert document["choice"]["threads"] == 1


def test_a_pattern_takes_what_it_matches(tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path) -> None:
    folder = make_frames("a.png", "b.bmp", "deep/c.png")
    assert predict(tiny_bundle, f"{folder}/**/*.png", "-o", tmp_path / "out") == 0
    assert [answer["image"] for answer in answers_in(tmp_path / "out")["answers"]] == ["a.png", "deep/c.png"]


def test_images_of_one_name_get_different_overlays(tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path) -> None:
    assert predict(tiny_bundle, make_frames("x/a.png", "y/a.png"), "--recursive", "-o", tmp_path / "out") == 0
    overlays = [answer["overlay"] for answer in answers_in(tmp_path / "out")["answers"]]
    assert overlays == ["x__a_png_overlay.jpg", "y__a_png_overlay.jpg"]
    assert all((tmp_path / "out" / name).is_file() for name in overlays)


def test_a_second_run_over_its_own_output_takes_no_overlay_for_an_image(
    tiny_bundle: Path, make_frames: MakeFrames
) -> None:
    folder = make_frames("a.png")
    assert predict(tiny_bundle, folder, "-o", folder) == 0
    assert predict(tiny_bundle, folder, "-o", folder, "--force") == 0
    assert [answer["image"] for answer in answers_in(folder)["answers"]] == ["a.png"]


def test_broken_images_are_reported_and_the_others_answered(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_frames("a.png", "truncated.png", "z.png")
    content = (folder / "truncated.png").read_bytes()
    (folder / "truncated.png").write_bytes(content[: len(content) // 2])
    (folder / "[bold]no image.jpg").write_text("hello")
    Image.new("RGB", (40, 40)).save(folder / "small.png")
    assert predict(tiny_bundle, folder, "-o", tmp_path / "out") == 2
    document = answers_in(tmp_path / "out")
    assert [answer["image"] for answer in document["answers"]] == ["a.png", "z.png"]
    failed = {failure["image"]: failure["message"] for failure in document["failed"]}
    assert sorted(failed) == ["[bold]no image.jpg", "small.png", "truncated.png"]
    assert failed["small.png"].startswith("small.png is 40x40 pixels")
    talk = " ".join(capsys.readouterr().err.split())
    assert "left out [bold]no image.jpg" in talk
    assert "2 answered" in talk and "3 left out" in talk
    assert not (tmp_path / "out" / "truncated_overlay.jpg").exists()


def test_a_run_without_any_answer_still_writes_its_report(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path
) -> None:
    folder = make_frames("a.png")
    (folder / "a.png").write_bytes(b"")
    assert predict(tiny_bundle, folder, "-o", tmp_path / "out") == 2
    document = answers_in(tmp_path / "out")
    assert (document["answers"], len(document["failed"])) == ([], 1)


def test_earlier_answers_are_kept_unless_forced(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_frames("a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a_overlay.jpg").write_text("mine")
    assert predict(tiny_bundle, folder, "-o", tmp_path / "out") == 2
    assert "a_overlay.jpg exists already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_overlay.jpg"]
    assert predict(tiny_bundle, folder, "-o", tmp_path / "out", "--force") == 0
    assert predict(tiny_bundle, folder, "-o", tmp_path / "out", "--no-overlays") == 2
    assert "answers.json exists already" in capsys.readouterr().err


def test_the_same_frames_give_the_same_bytes(tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path) -> None:
    folder = make_frames("a.png", "b.png")
    contents = []
    for name in ("first", "second"):
        assert predict(tiny_bundle, folder, "-o", tmp_path / name) == 0
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


def test_stdout_holds_json_only(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tiny_bundle, make_frames("a.png"), "-o", tmp_path / "out", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out) == answers_in(tmp_path / "out")


def test_stdout_holds_json_only_when_an_image_is_broken(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_frames("a.png", "b.png")
    (folder / "b.png").write_bytes(b"no image")
    assert predict(tiny_bundle, folder, "-o", tmp_path / "out", "--json", "-") == 2
    assert [failure["image"] for failure in json.loads(capsys.readouterr().out)["failed"]] == ["b.png"]


def test_stdout_holds_the_error_when_nothing_could_start(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tiny_bundle, tmp_path / "nothing", "-o", tmp_path / "out", "--json", "-") == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "UsageError"
    assert not (tmp_path / "out").exists()


def test_overlays_and_masks_can_be_left_out(tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path) -> None:
    assert predict(tiny_bundle, make_frames("a.png"), "-o", tmp_path / "out", "--no-overlays", "--no-masks") == 0
    (record,) = answers_in(tmp_path / "out")["answers"]
    assert not {"overlay", "parts_rle"} & set(record)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["answers.json"]


def test_swapped_channels_are_put_right_when_asked_for(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path
) -> None:
    folder = make_frames("a.png")
    assert predict(tiny_bundle, folder, "-o", tmp_path / "rgb") == 0
    with Image.open(folder / "a.png") as image:
        swapped_HWC = np.asarray(image)[:, :, ::-1]
    Image.fromarray(swapped_HWC).save(folder / "a.png")
    assert predict(tiny_bundle, folder, "-o", tmp_path / "bgr", "--color", "bgr") == 0
    assert answers_in(tmp_path / "bgr")["answers"] == answers_in(tmp_path / "rgb")["answers"]
    assert answers_in(tmp_path / "bgr")["choice"]["color"] == "bgr"


def test_a_tampered_bundle_is_refused_before_anything_is_written(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    bundle = shutil.copytree(tiny_bundle, tmp_path / "tampered.spacepkg")
    graph = bundle / open_bundle(bundle).manifest.variants[0].path
    content = bytearray(graph.read_bytes())
    content[-100] ^= 1
    graph.write_bytes(content)
    assert predict(bundle, make_frames("a.png"), "-o", tmp_path / "out") == 7
    assert "SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["--variant", "fp64"], 2, "it has fp32"),
        (["--tta", "d9"], 2, "d9"),
        (["--backend", "caffe"], 2, "choose one of auto, onnxruntime"),
        (["--threads", "0"], 2, "at least one is needed"),
        (["--color", "gray"], 2, "8-bit L"),
    ],
    ids=["variant", "tta", "backend", "threads", "channels"],
)
def test_a_wish_that_can_not_be_met_is_one_sentence(
    tiny_bundle: Path,
    make_frames: MakeFrames,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    exit_code: int,
    sentence: str,
) -> None:
    assert predict(tiny_bundle, make_frames("a.png"), "-o", tmp_path / "out", *arguments) == exit_code
    talk = capsys.readouterr().err
    assert sentence in " ".join(talk.split())
    assert "Traceback" not in talk


@pytest.mark.parametrize("output", ["a file", "a file/below"])
def test_an_output_that_can_not_be_a_folder_is_refused(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    (tmp_path / "a file").write_text("mine")
    assert predict(tiny_bundle, make_frames("a.png"), "-o", tmp_path / output) == 2
    assert "OutputError" in capsys.readouterr().err
    assert (tmp_path / "a file").read_text() == "mine"


def test_a_full_disk_leaves_no_half_file(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_frames("a.png")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel fails a write beyond this size as it fails one on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        exit_code = predict(tiny_bundle, folder, "-o", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert exit_code == 2
    assert "can't write" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupted_run_keeps_the_answers_that_it_has(
    tiny_bundle: Path,
    make_frames: MakeFrames,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, read = make_frames("a.png", "b.png", "c.png"), FrameReader.read

    def interrupted(self: FrameReader, source: Any) -> Any:
        if isinstance(source, Path) and source.name == "c.png":
            raise KeyboardInterrupt
        return read(self, source)

    monkeypatch.setattr(FrameReader, "read", interrupted)
    assert predict(tiny_bundle, folder, "-o", tmp_path / "out", "--json", "-") == 130
    captured = capsys.readouterr()
    assert "2 of 3 images are answered" in " ".join(captured.err.split())
    document = answers_in(tmp_path / "out")
    assert json.loads(captured.out) == document
    assert document["partial"] is True
    assert [answer["overlay"] for answer in document["answers"]] == ["a_overlay.jpg", "b_overlay.jpg"]
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("fails_at", ["b_overlay.jpg", "answers.json"])
@pytest.mark.parametrize("earlier", [False, True], ids=["new folder", "earlier answers"])
def test_a_disk_that_fills_up_on_the_way_leaves_what_was_there(
    tiny_bundle: Path,
    make_frames: MakeFrames,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails_at: str,
    earlier: bool,
) -> None:
    folder, out = make_frames("a.png", "b.png"), tmp_path / "out"
    if earlier:
        assert predict(tiny_bundle, folder, "-o", out, "--no-masks") == 0
    before = {path.name: path.read_bytes() for path in out.glob("*")}

    def full(path: Path, content: bytes, **_: Any) -> None:
        if path.name == fails_at:
            raise OutputError("can't write")
        path.write_bytes(content)

    monkeypatch.setattr("spacecompile.prediction.write_file", full)
    assert predict(tiny_bundle, folder, "-o", out, "--force") == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_forced_run_that_is_interrupted_leaves_no_earlier_overlay_beside_its_answers(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, read = make_frames("a.png", "b.png"), tmp_path / "out", FrameReader.read
    assert predict(tiny_bundle, folder, "-o", out) == 0

    def interrupted(self: FrameReader, source: Any) -> Any:
        if isinstance(source, Path) and source.name == "b.png":
            raise KeyboardInterrupt
        return read(self, source)

    monkeypatch.setattr(FrameReader, "read", interrupted)
    assert predict(tiny_bundle, folder, "-o", out, "--force") == 130
    assert sorted(path.name for path in out.iterdir()) == ["a_overlay.jpg", "answers.json"]
    assert [answer["image"] for answer in answers_in(out)["answers"]] == ["a.png"]


def test_a_file_name_that_is_no_text_is_answered_too(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path
) -> None:
    folder = make_frames("a.png")
    (folder / "a.png").rename(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))
    assert predict(tiny_bundle, folder, "-o", tmp_path / "out") == 0
    assert [answer["image"] for answer in answers_in(tmp_path / "out")["answers"]] == ["\\udcff.png"]


def test_the_engine_is_the_one_that_was_named_and_the_reason_is_kept(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path
) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    frames = make_frames("a.png")
    for engine in ("openvino", "onnxruntime"):
        assert predict(tiny_bundle, frames, "-o", tmp_path / engine, "--backend", engine, "--precision", "auto") == 0
        choice = answers_in(tmp_path / engine)["choice"]
        assert (choice["backend"], choice["variant"]) == (engine, "fp32")
        assert choice["backend_reason"].startswith("asked for by name")
        assert choice["variant_reason"].startswith("tta none, the ")
    named, exact = (answers_in(tmp_path / engine)["answers"][0] for engine in ("openvino", "onnxruntime"))
    assert named["class_name"] == exact["class_name"]
    np.testing.assert_allclose(named["box_xyxy"], exact["box_xyxy"], atol=0.5)


def test_a_submission_holds_every_box_and_every_layer(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path
) -> None:
    folder = make_frames("test_00001_img.png", "b.png")
    assert predict(tiny_bundle, folder, "-o", tmp_path / "out", "--submission") == 0
    answers = {answer["image"]: answer for answer in answers_in(tmp_path / "out")["answers"]}
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert sorted(archive.namelist()) == ["b_layer.npz", "detection.csv", "test_00001_layer.npz"]
        rows = list(csv.DictReader(io.StringIO(archive.read("detection.csv").decode())))
        layers = {name: np.load(io.BytesIO(archive.read(name)))["data"] for name in archive.namelist()[:2]}
    assert [row["filename"] for row in rows] == ["b.png", "test_00001_img.png"]
    for row in rows:
        answer = answers[row["filename"]]
        assert row["class"] == answer["class_name"]
        assert ast.literal_eval(row["bbox"]) == tuple(round(edge) for edge in answer["box_xyxy"])
        layer_HWC = layers[row["filename"].removesuffix(".png").removesuffix("_img") + "_layer.npz"]
        assert (layer_HWC.shape, layer_HWC.dtype) == ((128, 128, 3), np.uint8)
        for channel, part in ((0, "body"), (2, "panel")):
            np.testing.assert_array_equal(layer_HWC[..., channel], mask_from_rle(answer["parts_rle"][part]) * 255)
        assert layer_HWC[..., 1].max() == 0


def test_a_submission_writes_rows_first_where_asked(tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path) -> None:
    arguments = (make_frames("a.png"), "-o", tmp_path / "out", "--submission", "--submission-boxes", "rows")
    assert predict(tiny_bundle, *arguments) == 0
    left, top, right, bottom = (round(edge) for edge in answers_in(tmp_path / "out")["answers"][0]["box_xyxy"])
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert f'"[{top}, {left}, {bottom}, {right}]"' in archive.read("detection.csv").decode()


def test_a_submission_tells_images_apart_by_name_or_refuses_them(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_frames("one/a.png", "two/a.png")
    assert predict(tiny_bundle, folder, "-r", "-o", tmp_path / "out", "--submission") == 2
    assert "two images would both be a.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_leaves_no_submission(
    tiny_bundle: Path, make_frames: MakeFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_frames("a.png", "b.png")
    read = FrameReader.read

    def stopped(self: FrameReader, path: Any) -> Any:
        if isinstance(path, Path) and path.name == "b.png":
            raise KeyboardInterrupt
        return read(self, path)

    monkeypatch.setattr(FrameReader, "read", stopped)
    assert predict(tiny_bundle, folder, "-o", tmp_path / "out", "--submission") == 130
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_overlay.jpg", "answers.json"]
