"""The first nodes of the sealed graph: from the raw frame to the network's input.

Layout legend: N batch, C channels (RGB), H W frame or input rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from spacecompile.contract import ModelSpec
from spacecompile.network.preprocess import input_from_frame, normalised

_CHANNELS = 3

UNIT_STD = (1 / 255, 1 / 255, 1 / 255)
"""Standard deviation of a network that takes frames of 0 to 255 minus the mean: there is nothing to scale."""


def is_whole_ratio(spec: ModelSpec) -> bool:
    """Whether the frame is a whole multiple of the input, along each axis its own."""
    (frame_h, frame_w), (input_h, input_w) = spec.frame_size_px, spec.input_size_px
    return frame_h % input_h == 0 and frame_w % input_w == 0


class FrameToInput(nn.Module):
    """Reduce a frame to the input size and normalise it, exactly as training does.

    Where the frame is a whole multiple of the input, one strided convolution over the interleaved bytes does all of
    it: a kernel as wide as the ratio averages, picks one channel of each pixel, scales, and its bias subtracts the
    mean. That is the arithmetic of `input_from_frame` and `normalised` in another order (equal to 2e-6), and it
    spares the transpose of the whole frame: 3 ms instead of 7 ms on one core at 1024x1024.
    """

    kernel_OIhw: Tensor
    bias_O: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        (frame_h, frame_w), (input_h, input_w) = spec.frame_size_px, spec.input_size_px
        self.ratios: tuple[int, int] | None = None
        if is_whole_ratio(spec):
            self.ratios = (frame_h // input_h, frame_w // input_w)
            kernel_OIhw, bias_O = _packed_kernel(spec, self.ratios)
            self.register_buffer("kernel_OIhw", kernel_OIhw)
            self.register_buffer("bias_O", bias_O)

    def forward(self, frame_HWC: Tensor) -> Tensor:
        """Make the input of one frame.

        Args:
            frame_HWC: Frame as floats, 0 to 255.

        Returns:
            Normalised float input [1, 3, H, W].
        """
        if self.ratios is None:
            input_NCHW = input_from_frame(frame_HWC.permute(2, 0, 1)[None], self.spec.input_size_px)
            if self.spec.std == UNIT_STD:
                mean_C = torch.tensor([255 * mean for mean in self.spec.mean], dtype=input_NCHW.dtype)
                return input_NCHW - mean_C[:, None, None]
            return normalised(input_NCHW, self.spec.mean, self.spec.std)
        height, width, channels = frame_HWC.shape
        packed_11HW = frame_HWC.reshape(1, 1, height, width * channels)
        stride = (self.ratios[0], self.ratios[1] * _CHANNELS)
        return functional.conv2d(packed_11HW, self.kernel_OIhw, self.bias_O, stride=stride)

    def mean_and_max(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and largest value of a frame as it is in the input, 0 to 255, scalars.

        They are taken from the input: to read the frame once more costs 2 ms at 1024x1024, and a single hot pixel would
        light up a dark frame.

        Args:
            input_NCHW: Input that `forward` made of one frame.
        """
        scale_C = torch.tensor([255 * std for std in self.spec.std])
        offset_C = torch.tensor([255 * mean for mean in self.spec.mean])
        # Row by row first: one running float32 sum over many pixels loses digits.
        means_1C = input_NCHW.mean(dim=3).mean(dim=2)
        largest_1C = input_NCHW.amax(dim=3).amax(dim=2)
        return (means_1C * scale_C + offset_C).mean(), (largest_1C * scale_C + offset_C).amax(dim=(0, 1))


def _packed_kernel(spec: ModelSpec, ratios: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Kernel [3, 1, ratio_h, ratio_w * 3] and bias [3] that pool, part the channels and normalise."""
    # In float64, so that each weight is rounded only once.
    kernel_Ohwc = torch.zeros(_CHANNELS, *ratios, _CHANNELS, dtype=torch.float64)
    for channel, std in enumerate(spec.std):
        kernel_Ohwc[channel, :, :, channel] = 1 / (255 * std * ratios[0] * ratios[1])
    bias_O = torch.tensor([-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)])
    return kernel_Ohwc.reshape(_CHANNELS, 1, ratios[0], -1).float(), bias_O
