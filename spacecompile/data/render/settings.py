"""What a run of the renderer is asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from spacecompile.data.labels import SPLITS
from spacecompile.errors import UsageError

_MIN_FRAME_SIZE_PX: Final = 64
_MAX_FRAME_SIZE_PX: Final = 4096
_MAX_SAMPLES_PER_PIXEL: Final = 64

# Raised whenever the same settings would give other pixels, so that a folder is never half of one and half of another.
_RENDERER_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """One split of synthetic frames.

    Attributes:
        num_frames: Number of frames; frame i doesn't depend on it.
        seed: Seed that chooses all frames; different seeds and splits share none.
        split: Name of the split, `train` or `val`.
        frame_size_px: Height and width of the frames.
        samples_per_pixel: Number of rays per pixel for colour; labels always come from the pixel's centre.
        jpeg_quality: JPEG quality of the frames; masks have their own, in `spark`.
    """

    num_frames: int = 100
    seed: int = 0
    split: str = "train"
    frame_size_px: int = 1024
    samples_per_pixel: int = 1
    jpeg_quality: int = 92

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            UsageError: If a field is out of its range.
        """
        if self.split not in SPLITS:
            raise UsageError(f"split is {self.split!r}. Use {' or '.join(SPLITS)}.")
        limits = {
            "num_frames": (1, 999_999),
            "seed": (0, 2**63 - 1),
            "frame_size_px": (_MIN_FRAME_SIZE_PX, _MAX_FRAME_SIZE_PX),
            "samples_per_pixel": (1, _MAX_SAMPLES_PER_PIXEL),
            "jpeg_quality": (50, 100),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}. Choose a value from {low} to {high}.")

    @property
    def split_id(self) -> int:
        """Number of the split, part of every frame's random seed."""
        return SPLITS.index(self.split)

    def pixel_facts(self) -> dict[str, int | str]:
        """Everything that decides a frame's bytes; the number of frames doesn't."""
        facts = {name: value for name, value in asdict(self).items() if name != "num_frames"}
        return {"renderer_version": _RENDERER_VERSION, **facts}
