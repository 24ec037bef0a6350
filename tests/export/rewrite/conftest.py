"""Networks for the rewrite tests: seeded, and random where a fresh network is zero or one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from spacecompile.contract import ModelSpec
from spacecompile.network.model import MultiTaskNetwork


def _randomise(network: nn.Module) -> None:
    """Give norms and biases values that an inexact rewrite can't get away with.

    A fresh network has zero biases, unit scales and unit batch statistics: a pass that forgets any of them would pass.
    """
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.2)
                module.running_var.uniform_(0.5, 1.5)


@pytest.fixture(scope="session")
def make_network() -> Callable[..., MultiTaskNetwork]:
    """Builds a seeded, randomised network in evaluation mode from fields of a spec; 64x64 px unless told otherwise."""

    def make(*, whole_encoder: bool = False, **fields: Any) -> MultiTaskNetwork:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            spec = ModelSpec(**({"input_size_px": (64, 64)} | fields))
            network = MultiTaskNetwork(spec, whole_encoder=whole_encoder)
            _randomise(network)
        return network.eval()

    return make


@pytest.fixture(scope="session")
def reference_network(make_network: Callable[..., MultiTaskNetwork]) -> MultiTaskNetwork:
    """The reference network. Shared: no test may change it."""
    return make_network()
