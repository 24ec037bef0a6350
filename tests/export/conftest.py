"""A network of four layers for tests of the graph around it, which exports in a second."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

NUM_CLASSES = 10


class SmallNetwork(nn.Module):
    """Class logits of the mean feature, part logits on a grid a quarter of the input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, kernel_size=7, stride=4, padding=3)
        self.mix = nn.Conv2d(8, 8, kernel_size=3, padding=1)
        self.parts = nn.Conv2d(8, 2, kernel_size=1)
        self.classes = nn.Linear(8, NUM_CLASSES)

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        features_NChw = torch.relu(self.mix(torch.relu(self.features(input_NCHW))))
        class_logits_NL: Tensor = self.classes(features_NChw.mean(dim=(2, 3)))
        part_logits_NKhw: Tensor = self.parts(features_NChw)
        return class_logits_NL, part_logits_NKhw


@pytest.fixture
def small_network() -> nn.Module:
    """Seeded, in evaluation mode; its masks are set here and there."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = SmallNetwork()
        # Inputs like those of the toy frames: logits of mean 0 over them, so that masks are neither empty nor full.
        inputs_NCHW = torch.nn.functional.interpolate(2 * torch.randn(16, 3, 8, 8), (64, 64))
    with torch.no_grad():
        part_logits_NKhw = network(inputs_NCHW)[1]
        network.parts.bias.sub_(part_logits_NKhw.mean(dim=(0, 2, 3)))
        scale_K = 3 / part_logits_NKhw.std(dim=(0, 2, 3))
        network.parts.weight.mul_(scale_K[:, None, None, None])
        network.parts.bias.mul_(scale_K)
    return network.eval().requires_grad_(False)
