from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spacecompile.errors import DataError
from spacecompile.export.parity.frame_set import adversarial_frames, images_of, parity_frames

SIZE_PX = (96, 128)


def write_image(path: Path, *, size_px: tuple[int, int] = SIZE_PX, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size_px, 3), dtype=np.uint8)).save(path)
    return path


def test_adversarial_frames_are_what_they_are_called() -> None:
    frames = {frame.name: frame.frame_HWC for frame in adversarial_frames(SIZE_PX)}
    assert set(frames) == {"black", "white", "red", "green", "blue", "noise", "one-pixel", "checkerboard"}
    assert all(frame.shape == (*SIZE_PX, 3) and frame.dtype == np.uint8 for frame in frames.values())
    assert not frames["black"].any()
    assert (frames["white"] == 255).all()
    assert frames["green"].mean(axis=(0, 1)).tolist() == [0, 255, 0]
    assert np.count_nonzero(frames["one-pixel"].any(axis=2)) == 1
    assert set(np.unique(frames["checkerboard"])) == {0, 255}
    assert frames["checkerboard"].mean() == pytest.approx(127.5)
    assert 120 < frames["noise"].mean() < 135


def test_noise_is_the_same_each_time() -> None:
    first, second = (adversarial_frames(SIZE_PX)[5] for _ in range(2))
    assert first.name == "noise"
    assert np.array_equal(first.frame_HWC, second.frame_HWC)


def test_real_frames_are_spread_evenly_and_named_without_their_folder(tmp_path: Path) -> None:
    for index in range(10):
        write_image(tmp_path / f"{index:02d}.png", seed=index)
    frames = parity_frames(SIZE_PX, data=tmp_path, count=4)
    assert [frame.name for frame in frames if frame.kind == "real"] == ["00.png", "02.png", "05.png", "07.png"]
    assert [frame.kind for frame in frames].count("adversarial") == 8
    expected = np.asarray(Image.open(tmp_path / "05.png"))
    assert np.array_equal(frames[2].frame_HWC, expected)


def test_of_a_spark_folder_the_frames_are_taken_and_not_the_masks(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "Soho" / "val" / "a_img.png")
    write_image(tmp_path / "mask" / "Soho" / "val" / "a_layer.png")
    assert [image.path.name for image in images_of(tmp_path)] == ["a_img.png"]


def test_without_a_folder_frames_are_rendered_at_the_size_of_the_frame() -> None:
    pytest.importorskip("trimesh", reason="the render extra is not installed")
    frames = parity_frames(SIZE_PX, data=None, count=2)
    rendered = [frame for frame in frames if frame.kind == "rendered"]
    assert [frame.name for frame in rendered] == ["rendered-000", "rendered-001"]
    assert all(frame.frame_HWC.shape == (*SIZE_PX, 3) for frame in rendered)
    assert all(frame.frame_HWC.flags.c_contiguous for frame in rendered)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        images_of(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        images_of(tmp_path / "nowhere")


def test_an_image_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    write_image(tmp_path / "small.png", size_px=(64, 64))
    with pytest.raises(DataError, match=r"small\.png.*64"):
        parity_frames(SIZE_PX, data=tmp_path, count=4)


def test_a_broken_image_is_refused_by_name(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    with pytest.raises(DataError, match=r"b\.png"):
        parity_frames(SIZE_PX, data=tmp_path, count=4)
