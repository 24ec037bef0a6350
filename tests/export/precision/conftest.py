"""A sealed graph of a few layers, float32, and frames for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from spacecompile.contract import ModelSpec, Tta
from spacecompile.export.sealed.graph import SealedGraph
from spacecompile.export.sealed.to_onnx import export_model

SPEC = ModelSpec(input_size_px=(64, 64), frame_size_px=(128, 128))


class NormedNetwork(nn.Module):
    """Convolutions, a layer norm, attention and two heads: one of each kind of node that a precision treats apart."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.stem = nn.Conv2d(3, 16, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(16)
        self.query = nn.Linear(16, 16)
        self.depthwise = nn.Conv2d(16, 16, kernel_size=3, padding=1, groups=16)
        self.parts = nn.Conv2d(16, 2, kernel_size=1)
        self.classes = nn.Linear(16, 10)

    def forward(self, input_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        features_NChw = self.stem(input_NCHW)
        tokens_NLC = self.norm(features_NChw.flatten(2).transpose(1, 2) * self.gain)
        weights_NLL = torch.softmax(self.query(tokens_NLC) @ tokens_NLC.transpose(1, 2), dim=-1)
        mixed_NChw = (weights_NLL @ tokens_NLC).transpose(1, 2).reshape(features_NChw.shape)
        mixed_NChw = features_NChw + torch.relu(self.depthwise(mixed_NChw))
        class_logits_NL: Tensor = self.classes(mixed_NChw.mean(dim=(2, 3)))
        part_logits_NKhw: Tensor = self.parts(mixed_NChw)
        return class_logits_NL, part_logits_NKhw


def make_network(gain: float = 1.0) -> NormedNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return NormedNetwork(gain).eval().requires_grad_(False)


def exported(network: nn.Module, tta: Tta = "none") -> ModelProto:
    return export_model(SealedGraph(network, SPEC, tta), SPEC.frame_size_px)


@pytest.fixture(scope="session")
def model_with_gain() -> Callable[[float], ModelProto]:
    """The float32 graph of a network whose norm reads values multiplied by a gain."""
    return lambda gain: exported(make_network(gain))


@pytest.fixture(scope="session")
def model() -> ModelProto:
    """The float32 graph of the network."""
    return exported(make_network())


@pytest.fixture(scope="session")
def d4_model() -> ModelProto:
    """The same network under D4."""
    return exported(make_network(), "d4")


@pytest.fixture(scope="session")
def frames_HWC() -> list[NDArray[np.uint8]]:
    """Three frames of blotches."""
    rng = np.random.default_rng(5)
    coarse = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(3)]
    return [np.ascontiguousarray(frame.repeat(16, axis=0).repeat(16, axis=1)) for frame in coarse]
