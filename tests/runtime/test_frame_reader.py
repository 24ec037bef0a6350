from __future__ import annotations

import io
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spacecompile.errors import FrameError, UsageError
from spacecompile.runtime.frame_reader import FrameReader

SIZE = (96, 128)
READER = FrameReader(frame_size_px=SIZE)


@pytest.fixture
def frame() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (*SIZE, 3), np.uint8)


def saved(folder: Path, frame: NDArray[Any], name: str = "frame.png", **options: Any) -> Path:
    Image.fromarray(frame).save(folder / name, **options)
    return folder / name


def test_an_array_that_fits_is_not_copied(frame: NDArray[np.uint8]) -> None:
    assert READER.read(frame) is frame


@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda frame: np.repeat(frame, 2, axis=1)[:, ::2],
        lambda frame: np.ascontiguousarray(frame[::-1])[::-1],
        lambda frame: np.dstack([frame, frame[..., :1]])[..., :3],
    ],
    ids=["column order", "every second column", "upside down", "alpha sliced away"],
)
def test_any_strides_give_the_same_frame_in_row_order(frame: NDArray[np.uint8], view: Any) -> None:
    read = READER.read(view(frame))
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, frame)


def test_a_read_only_array_is_fine(frame: NDArray[np.uint8]) -> None:
    frame.flags.writeable = False
    assert READER.read(frame) is frame


@pytest.mark.parametrize("as_text", [True, False], ids=["str", "Path"])
def test_a_path_gives_the_pixels_of_the_file(tmp_path: Path, frame: NDArray[np.uint8], as_text: bool) -> None:
    path = saved(tmp_path, frame)
    np.testing.assert_array_equal(READER.read(str(path) if as_text else path), frame)


def test_a_pillow_image_gives_its_pixels(frame: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(READER.read(Image.fromarray(frame)), frame)


def test_bgr_is_swapped_only_when_asked_for(tmp_path: Path, frame: NDArray[np.uint8]) -> None:
    reader = FrameReader(frame_size_px=SIZE, color="bgr")
    for source in (frame, saved(tmp_path, frame), Image.fromarray(frame)):
        read = reader.read(source)
        assert read.flags.c_contiguous
        np.testing.assert_array_equal(read, frame[:, :, ::-1])


def test_gray_is_repeated_only_when_asked_for(tmp_path: Path, frame: NDArray[np.uint8]) -> None:
    gray_HW = frame[..., 0]
    reader = FrameReader(frame_size_px=SIZE, color="gray")
    for source in (gray_HW, gray_HW[..., None], saved(tmp_path, gray_HW), Image.fromarray(gray_HW)):
        np.testing.assert_array_equal(reader.read(source), np.repeat(gray_HW[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        (np.zeros((*SIZE, 3), np.float32), "Cast to uint8 in 0..255."),
        (np.full((*SIZE, 3), np.nan, np.float32), "it holds NaN or infinity"),
        (np.zeros((*SIZE, 3), np.uint16), "Scale uint16 to uint8."),
        (np.zeros((*SIZE, 3), np.bool_), "Scale bool to uint8."),
        (np.zeros((3, *SIZE), np.uint8), "Transpose to HWC."),
        (np.zeros((4, *SIZE), np.float32), "Cast to uint8 in 0..255, transpose to HWC, drop the alpha channel."),
        (np.zeros(SIZE, np.uint8), 'color="gray"'),
        (np.zeros((*SIZE, 1), np.uint8), 'color="gray"'),
        (np.zeros((*SIZE, 4), np.uint8), "Drop the alpha channel."),
        (np.zeros((1, *SIZE, 3), np.uint8), "Hand batches to `session.batch`."),
        (
            np.zeros((128, 96, 3), np.uint8),
            "Crop or resize to 96x128 (height x width) yourself, or rebuild with --frame",
        ),
        (np.zeros((), np.uint8), "Give one frame as [H, W, 3]."),
        (np.zeros((0, 128, 3), np.uint8), "Crop or resize"),
        (np.array(["x"], object), "Scale object to uint8"),
    ],
    ids=lambda value: None if isinstance(value, np.ndarray) else str(value),
)
def test_an_array_that_does_not_fit_is_refused_with_advice(source: NDArray[Any], advice: str) -> None:
    with pytest.raises(FrameError, match=re.escape(advice)) as caught:
        READER.read(source)
    seen = f"frame has shape {source.shape} and dtype {source.dtype}; the bundle expects uint8 (96, 128, 3) RGB."
    assert str(caught.value).startswith(seen)


def test_three_channels_are_refused_where_gray_was_promised(frame: NDArray[np.uint8]) -> None:
    with pytest.raises(FrameError, match=re.escape('expects uint8 (96, 128) GRAY. Load with color="rgb"')):
        FrameReader(frame_size_px=SIZE, color="gray").read(frame)


@pytest.mark.parametrize("source", [None, 5, [[0]], b"bytes"], ids=repr)
def test_what_is_no_frame_at_all_is_refused(source: Any) -> None:
    with pytest.raises(FrameError, match="give a numpy array"):
        READER.read(source)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA", "F", "I;16", "YCbCr"])
def test_an_image_of_another_mode_is_refused(mode: str) -> None:
    with pytest.raises(FrameError, match="the bundle expects 8-bit RGB"):
        READER.read(Image.new(mode, (128, 96)))


def test_the_way_to_gray_is_shown() -> None:
    with pytest.raises(FrameError, match=re.escape('load with color="gray" (`--color gray`)')):
        READER.read(Image.new("L", (128, 96)))


def test_sixteen_bit_color_is_refused_although_pillow_would_cut_it_to_eight(tmp_path: Path) -> None:
    # Pillow can't write 16-bit RGB, so the two chunks that matter are built here.
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + bytes(128 * 6)) * 96
    header = struct.pack(">IIBBBBB", 128, 96, 16, 2, 0, 0, 0)
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    with pytest.raises(FrameError, match="16-bit RGB; the bundle expects 8-bit RGB"):
        READER.read(path)


def test_a_file_of_another_size_is_never_resized(tmp_path: Path, frame: NDArray[np.uint8]) -> None:
    path = saved(tmp_path, frame[:50])
    with pytest.raises(FrameError, match=re.escape("is 50x128 pixels (height x width); the bundle expects 96x128.")):
        READER.read(path)


def test_an_image_that_is_stored_rotated_is_refused(tmp_path: Path, frame: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, frame, "frame.jpg", exif=exif)
    with pytest.raises(FrameError, match="EXIF orientation 6"):
        READER.read(path)


def test_an_upright_entry_is_fine(tmp_path: Path, frame: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    assert READER.read(saved(tmp_path, frame, "frame.jpg", exif=exif)).shape == (*SIZE, 3)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="does not exist"):
        READER.read(tmp_path / "nothing.png")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "a signature only"])
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "frame.png").write_bytes(content)
    with pytest.raises(FrameError, match="not an image that Pillow can read"):
        READER.read(tmp_path / "frame.png")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError):
        READER.read(tmp_path)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_truncated_files_are_refused_at_any_length(tmp_path: Path, frame: NDArray[np.uint8], file_format: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, file_format)
    content = stream.getvalue()
    path = tmp_path / "frame.img"
    for length in range(0, len(content) * 9 // 10, max(1, len(content) // 40)):
        path.write_bytes(content[:length])
        with pytest.raises(FrameError):
            READER.read(path)


def test_an_image_object_over_a_truncated_file_is_refused(tmp_path: Path, frame: NDArray[np.uint8]) -> None:
    path = saved(tmp_path, frame)
    path.write_bytes(path.read_bytes()[:4000])
    with Image.open(path) as image, pytest.raises(FrameError, match="truncated or broken"):
        READER.read(image)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
# Pillow warns about odd metadata in damaged TIFF files before it gives up or goes on.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_give_a_frame_or_a_frame_error(
    tmp_path: Path, frame: NDArray[np.uint8], file_format: str
) -> None:
    stream = io.BytesIO()
    Image.fromarray(frame // 64 * 64).save(stream, file_format)
    randomness = random.Random(7)
    path = tmp_path / "frame.img"
    refused = 0
    for _ in range(200):
        content = bytearray(stream.getvalue())
        for _ in range(randomness.choice((1, 8, 64))):
            place = randomness.randrange(min(len(content), randomness.choice((64, 1024, 1 << 20))))
            content[place] = randomness.randrange(256)
        path.write_bytes(content)
        try:
            assert READER.read(path).shape == (*SIZE, 3)
        except FrameError:
            refused += 1
    assert refused > 0


def test_an_unknown_color_is_refused() -> None:
    with pytest.raises(UsageError, match="choose one of rgb, bgr, gray"):
        FrameReader(frame_size_px=SIZE, color="hsv")  # type: ignore[arg-type]
