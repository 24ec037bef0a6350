"""From what a caller hands over to a frame array: an array, a file or a Pillow image, refused unless it fits the graph.

Nothing is resized, rotated, cast or reordered silently: an answer about the wrong pixels looks like a right one.

Layout legend: H, W frame rows and columns; C channels (RGB).
"""

from __future__ import annotations

import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from spacecompile.errors import FrameError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

FrameSource: TypeAlias = "NDArray[np.uint8] | str | Path | Image"
"""What a caller may hand over as one frame."""

Color = Literal["rgb", "bgr", "gray"]
"""What a caller's frames hold. `rgb` frames pass as they are; `bgr` has its channels swapped, as OpenCV reads them;
`gray` has one channel, repeated three times. It holds for every source, files included."""

# What Pillow's decoders raise on broken files, found by feeding them damaged ones.
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error, zlib.error)

_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class FrameReader:
    """Turns what a caller has into the frame that a graph takes.

    Attributes:
        frame_size_px: (height, width) of the frames that the graph takes.
        color: Order of the colour channels in the caller's frames.
    """

    frame_size_px: tuple[int, int]
    color: Color = "rgb"

    def __post_init__(self) -> None:
        """Check the colour once.

        Raises:
            UsageError: If the colour is unknown.
        """
        if self.color not in get_args(Color):
            raise UsageError(f"color is {self.color!r}; choose one of {', '.join(get_args(Color))}.")

    def read(self, source: FrameSource) -> NDArray[np.uint8]:
        """The frame in C order; an array that already is goes through without a copy.

        Args:
            source: uint8 array [H, W, 3] (for `gray` [H, W] or [H, W, 1]; any strides), path of an image file, or
                Pillow image.

        Raises:
            FrameError: If the source is no such thing, can't be decoded, or has another size, type or channels.
        """
        if isinstance(source, np.ndarray):
            return self._from_array(source)
        if isinstance(source, str | Path):
            return self._from_file(Path(source))
        if _is_pillow_image(source):
            return self._from_pillow(source, "image")
        raise FrameError(
            f"frame is a {type(source).__module__}.{type(source).__qualname__}; give a numpy array uint8 [H, W, 3], "
            "the path of an image or a Pillow image. A torch tensor becomes one with `.cpu().numpy()`."
        )

    def _from_array(self, frame: NDArray[Any]) -> NDArray[np.uint8]:
        height_px, width_px = self.frame_size_px
        size_px = (height_px, width_px)
        wanted = [size_px, (*size_px, 1)] if self.color == "gray" else [(*size_px, 3)]
        if frame.dtype != np.uint8 or frame.shape not in wanted:
            raise FrameError(
                f"frame has shape {frame.shape} and dtype {frame.dtype}; the bundle expects uint8 {wanted[0]} "
                f"{self.color.upper()}. {self._advice(frame)}"
            )
        if self.color == "gray":
            frame = np.broadcast_to(frame.reshape(height_px, width_px, 1), (height_px, width_px, 3))
        elif self.color == "bgr":
            frame = frame[:, :, ::-1]
        return np.ascontiguousarray(frame)

    def _advice(self, frame: NDArray[Any]) -> str:
        """What to do about an array that does not fit: one step per thing that is wrong with it."""
        steps = []
        shape = frame.shape
        if frame.dtype.kind == "f":
            steps.append("cast to uint8 in 0..255" + (" (it holds NaN or infinity)" if _has_non_finite(frame) else ""))
        elif frame.dtype != np.uint8:
            steps.append(f"scale {frame.dtype} to uint8")
        if len(shape) == 4:
            steps.append("hand batches to `session.batch`")
            shape = shape[1:]
        if len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
            steps.append("transpose to HWC")
            shape = (*shape[1:], shape[0])
        steps.extend(self._channel_advice(shape))
        if len(shape) in (2, 3) and shape[:2] != self.frame_size_px:
            height_px, width_px = self.frame_size_px
            steps.append(f"crop or resize to {height_px}x{width_px} (height x width) yourself, or rebuild with --frame")
        sentence = ", ".join(steps or ["give one frame as [H, W, 3]"]) + "."
        return sentence[0].upper() + sentence[1:]

    def _channel_advice(self, shape: tuple[int, ...]) -> list[str]:
        channels = 1 if len(shape) == 2 else shape[2] if len(shape) == 3 else 0
        if channels == 1 and self.color != "gray":
            return ['load with color="gray" to have one channel repeated']
        if channels == 3 and self.color == "gray":
            return ['load with color="rgb" for three channels']
        if channels == 4:
            return ["drop the alpha channel"]
        return []

    def _from_file(self, path: Path) -> NDArray[np.uint8]:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415  a caller with arrays never pays Pillow's 20 ms

        # Pillow warns about sizes from 90 megapixels on; the size check refuses them, decoded or not.
        bombs = (Image.DecompressionBombWarning, Image.DecompressionBombError)
        try:
            with Image.open(path) as image:
                return self._from_pillow(image, str(path))
        except FileNotFoundError as error:
            raise FrameError(f"image {path} does not exist. Check the path.") from error
        except UnidentifiedImageError as error:
            raise FrameError(f"{path} is not an image that Pillow can read. Give PNG, JPEG, TIFF or BMP.") from error
        except (*_DECODER_ERRORS, *bombs) as error:
            raise FrameError(f"{path} can't be decoded: {error}. Get the file again.") from error

    def _from_pillow(self, image: Image, origin: str) -> NDArray[np.uint8]:
        """Check size, depth and mode before the pixels are decoded."""
        height_px, width_px = self.frame_size_px
        mode = "L" if self.color == "gray" else "RGB"
        if (image.height, image.width) != (height_px, width_px):
            raise FrameError(
                f"{origin} is {image.height}x{image.width} pixels (height x width); the bundle expects "
                f"{height_px}x{width_px}. Crop or resize it yourself, or rebuild with --frame."
            )
        if image.mode != mode or _is_deep(image):
            seen = f"16-bit {image.mode}" if _is_deep(image) else f"mode {image.mode}"
            hint = ' or load with color="gray" (`--color gray`)' if (image.mode, mode) == ("L", "RGB") else ""
            raise FrameError(f"{origin} has {seen}; the bundle expects 8-bit {mode}. Convert it{hint}.")
        try:
            image.load()
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        except _DECODER_ERRORS as error:
            raise FrameError(f"{origin} is truncated or broken: {error}. Get the file again.") from error
        if orientation != 1:
            raise FrameError(
                f"{origin} asks to be rotated when shown (EXIF orientation {orientation}), so what is up is ambiguous. "
                "Save it upright without that entry, or hand over an array."
            )
        return self._from_array(np.asarray(image))


def _is_pillow_image(source: object) -> bool:
    """Without importing Pillow: whoever holds an image has imported it."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(source, module.Image)


def _is_deep(image: Image) -> bool:
    """Whether the file behind an image has 16 bits per channel, of which Pillow silently keeps 8."""
    return any(";16" in str(tile) for tile in getattr(image, "tile", ()))


def _has_non_finite(frame: NDArray[Any]) -> bool:
    return not bool(np.isfinite(frame).all())
