"""Augmentation of whole batches, as torchvision transforms: frame, coverage and box move in step.

Flips, quarter turns, rotation, scale and shift are one resampling, on whatever device the batch is on. A transform
here draws anew for every frame of a batch, where torchvision's own draw once per call, and from the run's generator, so
that a resumed run continues identically.

Layout legend: N frames, C channels, K parts, H W input rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2

from spacecompile.train.recipe import Augmentation


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Ranges that random values are drawn from, uniformly.

    Attributes:
        flips: Mirror and turn by quarters (half turns only when the input is not square).
        rotated_share: Share of frames that are rotated, scaled and shifted at all; the others keep exact pixels.
        rotation_deg: Largest angle either way.
        scale: Smallest and largest magnification.
        shift: Largest shift either way, as a share of the input's size.
        gain: Smallest and largest exposure factor, drawn on a logarithmic scale.
        tint: Largest change of each colour channel, beside the exposure: white balance and coloured light.
        noise: Largest standard deviation of Gaussian noise, in grey levels of 255.
        blurred_share: Share of frames that are out of focus.
        blur_px: Largest standard deviation of that blur, in pixels of the input.
    """

    flips: bool = True
    rotated_share: float = 0.5
    rotation_deg: float = 15.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    gain: tuple[float, float] = (1.0, 1.0)
    tint: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0
    blurred_share: float = 0.0
    blur_px: float = 0.0


SETTINGS: dict[Augmentation, AugmentSettings] = {
    "none": AugmentSettings(flips=False, rotated_share=0.0),
    "light": AugmentSettings(),
    "medium": AugmentSettings(rotated_share=0.75, scale=(0.75, 1.3), shift=0.1, gain=(0.6, 1.6), noise=6.0),
    "heavy": AugmentSettings(
        rotated_share=0.9,
        rotation_deg=45.0,
        scale=(0.5, 1.6),
        shift=0.2,
        gain=(0.4, 2.5),
        tint=(0.8, 1.25),
        noise=12.0,
        blurred_share=0.3,
        blur_px=1.5,
    ),
}
"""`light` is the published recipe's; it names medium and heavy ones, which lost to it, without their numbers."""


def augmented(pixels_NCHW: Tensor, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Augment frames and coverage alike; see `augmented_with_boxes`.

    Args:
        pixels_NCHW: Float, RGB and coverage, 0 to 255.
        settings: What to draw.
        generator: On the CPU, source of every random number but the noise's pixels.

    Returns:
        Same shape; what comes from outside the frame is black and uncovered.
    """
    nowhere_N4 = torch.zeros(len(pixels_NCHW), 4, device=pixels_NCHW.device)
    return augmented_with_boxes(pixels_NCHW, nowhere_N4, settings, generator)[0]


def augmented_with_boxes(
    pixels_NCHW: Tensor, boxes_N4: Tensor, settings: AugmentSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Augment frames, coverage and one box per frame in step; exposure, noise and blur touch RGB only.

    Args:
        pixels_NCHW: Float, RGB and coverage, 0 to 255.
        boxes_N4: Half-open xyxy in the same pixels.
        settings: What to draw.
        generator: On the CPU, source of every random number but the noise's pixels.

    Returns:
        Pixels and boxes of the same shapes; boxes are clipped, and empty where the craft left the frame.
    """
    size_px = (pixels_NCHW.shape[2], pixels_NCHW.shape[3])
    sample = transform_of(settings, generator)(
        tv_tensors.Image(pixels_NCHW[:, :3]),
        tv_tensors.Mask(pixels_NCHW[:, 3:]),
        tv_tensors.BoundingBoxes(boxes_N4, format="XYXY", canvas_size=size_px),
    )
    frames_NCHW, coverage_NKHW, moved_N4 = (entry.as_subclass(Tensor) for entry in sample)
    return torch.cat([frames_NCHW, coverage_NKHW], 1), moved_N4


def transform_of(settings: AugmentSettings, generator: torch.Generator) -> v2.Transform:
    """The settings as a transform of a batch: an Image [N, 3, H, W], a Mask [N, K, H, W], BoundingBoxes [N, 4]."""
    return v2.Compose(
        [Move(settings, generator), Expose(settings, generator), Blur(settings, generator), Noise(settings, generator)]
    )


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


class _BatchTransform(v2.Transform):  # type: ignore[misc]  # torchvision ships no types
    """A transform with settings and a generator of its own."""

    def __init__(self, settings: AugmentSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        self.generator = generator


class Move(_BatchTransform):
    """Flips, quarter turns, rotation, scale and shift of a batch, one resampling.

    Masks are taken for coverage and blended like the frame; torchvision's own kernels take the nearest pixel.
    """

    _transformed_types: ClassVar = (tv_tensors.Image, tv_tensors.Mask, tv_tensors.BoundingBoxes)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw one map per frame."""
        image_NCHW = next(entry for entry in flat_inputs if isinstance(entry, tv_tensors.Image))
        frames, _, height_px, width_px = image_NCHW.shape
        theta_N23 = random_affine(
            frames, size_px=(height_px, width_px), settings=self.settings, generator=self.generator
        )
        grid_NHW2 = functional.affine_grid(
            theta_N23.to(image_NCHW.device), [frames, 1, height_px, width_px], align_corners=False
        )
        return {"theta_N23": theta_N23, "grid_NHW2": grid_NHW2}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resample pixels; map boxes."""
        plain = inpt.as_subclass(Tensor)
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            moved = moved_boxes(plain, params["theta_N23"].to(plain.device), inpt.canvas_size)
        else:
            moved = functional.grid_sample(
                plain, params["grid_NHW2"], mode="bilinear", padding_mode="zeros", align_corners=False
            )
        return tv_tensors.wrap(moved, like=inpt)


class Expose(_BatchTransform):
    """Gain of every frame and of every colour channel."""

    _transformed_types: ClassVar = (tv_tensors.Image,)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ARG002  # torchvision's signature
        """Multiply, and clip like a sensor."""
        gain, tint = self.settings.gain, self.settings.tint
        if (gain, tint) == ((1.0, 1.0), (1.0, 1.0)):
            return inpt
        factor_NC11 = torch.ones(len(inpt), 3, 1, 1)
        for (low, high), shape in ((gain, (len(inpt), 1, 1, 1)), (tint, (len(inpt), 3, 1, 1))):
            if (low, high) != (1.0, 1.0):
                factor_NC11 = factor_NC11 * _uniform(shape, math.log(low), math.log(high), self.generator).exp()
        exposed_NCHW = (inpt.as_subclass(Tensor) * factor_NC11.to(inpt.device)).clamp(0, 255)
        return tv_tensors.wrap(exposed_NCHW, like=inpt)


class Blur(_BatchTransform):
    """Some frames out of focus, all of a batch by the same radius."""

    _transformed_types: ClassVar = (tv_tensors.Image,)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ARG002  # torchvision's signature
        """Convolve the chosen frames with a Gaussian."""
        if not self.settings.blurred_share:
            return inpt
        is_blurred_N = torch.rand(len(inpt), generator=self.generator) < self.settings.blurred_share
        sigma_px = max(0.1, float(_uniform((1,), 0.0, self.settings.blur_px, self.generator)))
        kernel_px = 2 * math.ceil(3 * self.settings.blur_px) + 1
        if not is_blurred_N.any() or min(inpt.shape[2:]) <= kernel_px:
            return inpt
        blurred_NCHW = inpt.as_subclass(Tensor).clone()
        chosen_N = is_blurred_N.to(inpt.device)
        blurred_NCHW[chosen_N] = v2.functional.gaussian_blur(
            blurred_NCHW[chosen_N], [kernel_px, kernel_px], [sigma_px, sigma_px]
        )
        return tv_tensors.wrap(blurred_NCHW, like=inpt)


class Noise(_BatchTransform):
    """Gaussian noise of another strength on every frame."""

    _transformed_types: ClassVar = (tv_tensors.Image,)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ARG002  # torchvision's signature
        """Add it, and clip like a sensor."""
        if not self.settings.noise:
            return inpt
        deviation_N111 = _uniform((len(inpt), 1, 1, 1), 0.0, self.settings.noise, self.generator).to(inpt.device)
        plain_NCHW = inpt.as_subclass(Tensor)
        # On the batch's own device and from torch's generator there: a batch of noise from the CPU would be the
        # slowest step of all.
        noisy_NCHW = plain_NCHW + torch.randn_like(plain_NCHW) * deviation_N111
        return tv_tensors.wrap(noisy_NCHW.clamp_(0, 255), like=inpt)


def moved_boxes(boxes_N4: Tensor, theta_N23: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Boxes under the maps that their frames were resampled with.

    A turned box is the one around the turned *ellipse* in it, not around its turned corners, which are empty for most
    objects and would teach boxes that are too large (Kalra et al., "Towards Rotation Invariance in Object Detection",
    ICCV 2021). Under flips and quarter turns both are the box itself.

    Args:
        boxes_N4: Half-open xyxy in pixels.
        theta_N23: From output to input coordinates, see `random_affine`.
        size_px: (height, width).

    Returns:
        Clipped to the frame; empty boxes stay empty.
    """
    size_2 = torch.tensor([size_px[1], size_px[0]], dtype=boxes_N4.dtype, device=boxes_N4.device)
    is_empty_N = ((boxes_N4[:, 2:] - boxes_N4[:, :2]) <= 0).any(1)
    low_N2, high_N2 = (2 * boxes_N4[:, axes] / size_2 - 1 for axes in (slice(0, 2), slice(2, 4)))
    centre_N2, half_N2 = (low_N2 + high_N2) / 2, (high_N2 - low_N2) / 2
    inverse_N22 = torch.linalg.inv(theta_N23[:, :, :2])
    centre_N2 = (inverse_N22 @ (centre_N2 - theta_N23[:, :, 2])[:, :, None])[:, :, 0]
    half_N2 = (inverse_N22.square() @ half_N2.square()[:, :, None])[:, :, 0].sqrt()
    edges_N22 = torch.stack([centre_N2 - half_N2, centre_N2 + half_N2], 1).clamp(-1, 1)
    moved_N4 = ((edges_N22 + 1) / 2 * size_2).flatten(1)
    return moved_N4.where(~is_empty_N[:, None], 0.0)


def random_affine(
    frames: int, *, size_px: tuple[int, int], settings: AugmentSettings, generator: torch.Generator
) -> Tensor:
    """One map from output to input coordinates per frame, in the -1..1 coordinates of `affine_grid`.

    Returns:
        float32 [N, 2, 3].
    """

    def uniform_N(low: float, high: float) -> Tensor:
        return torch.rand(frames, generator=generator) * (high - low) + low

    is_moved_N = torch.rand(frames, generator=generator) < settings.rotated_share
    quarter = 1 if size_px[0] == size_px[1] else 2
    turns_N = torch.randint(0, 4 // quarter, (frames,), generator=generator) * quarter * settings.flips
    mirror_N = 1.0 - 2.0 * torch.randint(0, 2, (frames,), generator=generator) * settings.flips
    angle_N = uniform_N(-settings.rotation_deg, settings.rotation_deg).deg2rad() * is_moved_N
    scale_N = torch.where(is_moved_N, uniform_N(*settings.scale), 1.0)
    shift_N2 = torch.stack([uniform_N(-settings.shift, settings.shift) for _ in range(2)], 1) * is_moved_N[:, None]

    # Quarter turns as whole numbers: cos(pi / 2) in float32 would blur exact pixels.
    cos_turn_N, sin_turn_N = (
        (torch.tensor(table)[turns_N]) for table in ([1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, -1.0])
    )
    cos_N = (cos_turn_N * angle_N.cos() - sin_turn_N * angle_N.sin()) / scale_N
    sin_N = (sin_turn_N * angle_N.cos() + cos_turn_N * angle_N.sin()) / scale_N
    aspect = size_px[0] / size_px[1]
    row_x_N3 = torch.stack([cos_N * mirror_N, -sin_N * aspect, 2 * shift_N2[:, 0]], 1)
    row_y_N3 = torch.stack([sin_N / aspect * mirror_N, cos_N, 2 * shift_N2[:, 1]], 1)
    return torch.stack([row_x_N3, row_y_N3], 1)
