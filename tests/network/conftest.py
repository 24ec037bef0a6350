"""A small smp network, as people have it before they meet spacecompile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from spacecompile.network.checkpoint import LoadedCheckpoint, load_checkpoint

SIZES = {"input_size_px": (64, 64), "frame_size_px": (128, 128)}

BuildModel = Callable[..., nn.Module]
LoadFile = Callable[..., LoadedCheckpoint]


def build_model(decoder: str = "Unet", encoder: str = "tu-test_resnet", num_classes: int = 3, **options: Any) -> Any:
    """Seeded and untrained; see smp for the options."""
    fixed = {"encoder_weights": None, "classes": 2, "aux_params": {"classes": num_classes}}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(smp, decoder)(encoder_name=encoder, **{**fixed, **options}).eval()


@pytest.fixture(scope="session")
def smp_model() -> BuildModel:
    """Builds an smp network; see `build_model`."""
    return build_model


@pytest.fixture(scope="session")
def state_dict() -> dict[str, Tensor]:
    """Of the smallest network with all parts: a U-Net of depth 4 on timm's test network, three classes."""
    weights: dict[str, Tensor] = build_model(encoder_depth=4, decoder_channels=(32, 16, 16, 8)).state_dict()
    return weights


@pytest.fixture
def load_file(tmp_path: Path) -> LoadFile:
    """Saves what it is given and loads it as a checkpoint of small sizes, with further facts by keyword."""

    def load(content: Any, **given: Any) -> LoadedCheckpoint:
        path = tmp_path / "weights.pt"
        torch.save(content, path)
        return load_checkpoint(path, given={**SIZES, **given})

    return load
