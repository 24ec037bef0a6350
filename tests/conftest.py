"""A checkpoint and a bundle that every stage's tests share: the reference architecture, seeded, at a small size."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from spacecompile.network.model import MultiTaskNetwork
    from spacecompile.runtime.cuda.engine_api import EngineApi

# pytest-xdist runs several processes on the same cores, and torch's OpenMP threads wait for each other busily by
# default: ten times slower then. Read when torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Tests and packages that import ONNX Runtime directly would report to its maker, see
# `runtime/backends/onnxruntime_import.py`.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Tests that import OpenVINO directly would report to its maker, see `runtime/backends/openvino_import.py`.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

INPUT_SIZE_PX = (64, 64)
FRAME_SIZE_PX = (128, 128)


@pytest.fixture(scope="session")
def rtx() -> EngineApi:
    """TensorRT-RTX, which parses and builds without a GPU."""
    from spacecompile.runtime.cuda.engine_api import load_engine_api

    if find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed: pip install 'spacecompile[tensorrt-rtx]'")
    return load_engine_api("tensorrt-rtx")


@pytest.fixture(autouse=True)
def _torch_threads_as_before() -> Iterator[None]:
    """`--threads` counts for the whole process; a bundle that a later test builds would hold another number."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _compiled_models_stay_in_the_run(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own cache folder is neither read nor filled by tests."""
    from spacecompile.runtime.backends import openvino_cache

    folder = tmp_path_factory.getbasetemp() / "openvino-cache"
    monkeypatch.setattr(openvino_cache, "user_cache_folder", lambda: folder)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the reference architecture, 64x64 input, 128x128 frame; see `fitted_network`."""
    from spacecompile.network.checkpoint import save_checkpoint

    path = _shared_folder(tmp_path_factory) / "tiny.pt"
    with _one_at_a_time(path):
        if not path.exists():
            save_checkpoint(path, fitted_network(seed=0), training={"note": "heads fitted to a toy world"})
    return path


@pytest.fixture(scope="session")
def quick_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of another architecture, a U-Net on timm's smallest network, that compiles in a few seconds."""
    import torch

    from spacecompile.contract import ModelSpec
    from spacecompile.network.checkpoint import save_checkpoint
    from spacecompile.network.model import MultiTaskNetwork

    spec = ModelSpec(
        architecture="Unet",
        encoder="tu-test_resnet",
        encoder_depth=4,
        decoder_options={"decoder_channels": [32, 16, 16, 8]},
        classes=("Red", "Green", "Blue"),
        input_size_px=INPUT_SIZE_PX,
        frame_size_px=FRAME_SIZE_PX,
    )
    path = _shared_folder(tmp_path_factory) / "quick.pt"
    with _one_at_a_time(path), torch.random.fork_rng():
        torch.manual_seed(0)
        if not path.exists():
            save_checkpoint(path, MultiTaskNetwork(spec).eval(), training={})
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that the real build makes of `tiny_checkpoint`, variants fp32 and fp32-d4. Copy it to change it."""
    from spacecompile.export.build import build
    from spacecompile.export.plan import BuildOptions

    path = _shared_folder(tmp_path_factory) / "tiny.spacepkg"
    with _one_at_a_time(path):
        if not path.exists():
            build(tiny_checkpoint, output=path, options=BuildOptions(parity_frames=4))
    return path


@pytest.fixture(scope="session")
def precise_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tiny_checkpoint` in every precision that has a file, plain and D4. Copy it to change it."""
    from spacecompile.export.build import build
    from spacecompile.export.plan import BuildOptions

    path = _shared_folder(tmp_path_factory) / "precise.spacepkg"
    with _one_at_a_time(path):
        if not path.exists():
            options = BuildOptions(parity_frames=4, calibration_frames=4)
            build(tiny_checkpoint, output=path, precision=("fp32", "fp16", "int8"), options=options)
    return path


@pytest.fixture(scope="session")
def toy_frames() -> list[NDArray[np.uint8]]:
    """Eight frames [128, 128, 3] of the world that `tiny_checkpoint` knows."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(1)
        scenes_NCHW, _, _ = toy_scenes(num_scenes=8)
    frames_NCHW = torch.nn.functional.interpolate(scenes_NCHW, FRAME_SIZE_PX).round().to(torch.uint8)
    return [frame_CHW.permute(1, 2, 0).contiguous().numpy() for frame_CHW in frames_NCHW]


def _shared_folder(factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of pytest-xdist, whose own folders lie side by side in it."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fitted_network(seed: int) -> MultiTaskNetwork:
    """A network with random encoder and decoder whose two heads are fitted, in closed form, to a toy world.

    In it a craft is a grey or coloured box with a blue panel on a dark sky, and its class is told by its colour. That
    takes a second, and the answers have parts and boxes where the craft is.
    """
    import torch

    from spacecompile.box_rule import BoxRule
    from spacecompile.contract import SPARK_CLASSES, ModelSpec
    from spacecompile.network.model import MultiTaskNetwork
    from spacecompile.network.preprocess import normalised

    spec = ModelSpec(
        input_size_px=INPUT_SIZE_PX,
        frame_size_px=FRAME_SIZE_PX,
        box=BoxRule(margins_px=(1.0, 2.0, 0.5, 1.5)),
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        network = MultiTaskNetwork(spec).eval()
        scenes_NCHW, parts_NKHW, class_N = toy_scenes(num_scenes=320)
        features = network.encoder(normalised(scenes_NCHW, spec.mean, spec.std))
        decoded_NChw = network.decoder(features)
        wanted_NKhw = torch.nn.functional.interpolate(parts_NKHW, decoded_NChw.shape[2:], mode="area")
        _fit(
            network.segmentation_head, decoded_NChw.movedim(1, 3).flatten(0, 2), wanted_NKhw.movedim(1, 3).flatten(0, 2)
        )
        wanted_NL = torch.nn.functional.one_hot(class_N, len(SPARK_CLASSES)).float()
        _fit(network.classification_head, features[-1].mean(dim=(2, 3)), wanted_NL)
    return network


def toy_scenes(num_scenes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs [N, 3, H, W] of 0 to 255, part masks [N, 2, H, W] and class indices [N], from torch's random state."""
    import torch

    scenes_NCHW = 12 * torch.rand(num_scenes, 3, *INPUT_SIZE_PX)
    parts_NKHW = torch.zeros(num_scenes, 2, *INPUT_SIZE_PX)
    class_N = torch.arange(num_scenes) % 10
    for scene_CHW, parts_KHW, index in zip(scenes_NCHW, parts_NKHW, class_N.tolist(), strict=True):
        top, left, size_px = (*torch.randint(2, 26, (2,)).tolist(), int(torch.randint(10, 20, ())))
        body = (slice(top, top + size_px), slice(left, left + size_px))
        panel = (slice(top + size_px // 4, top + 3 * size_px // 4), slice(left + size_px, left + 2 * size_px))
        scene_CHW[:, *body] = torch.tensor([255 - 25 * index, 60 + 18 * index, 90.0])[:, None, None]
        scene_CHW[:, *panel] = torch.tensor([20, 40, 230.0])[:, None, None]
        parts_KHW[0, *body] = 1
        parts_KHW[1, *panel] = 1
    return scenes_NCHW, parts_NKHW, class_N


def _fit(head: torch.nn.Module, features_SC: torch.Tensor, wanted_SK: torch.Tensor) -> None:
    """Ridge regression of a linear head on 0/1 targets, stretched to logits of about -6 and 6."""
    import torch

    layer = next(module for module in head.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d))
    with_bias_SC = torch.cat([features_SC, torch.ones(len(features_SC), 1)], dim=1).double()
    gram_CC = with_bias_SC.T @ with_bias_SC + 1e-3 * torch.eye(with_bias_SC.shape[1])
    weight_CK = torch.linalg.solve(gram_CC, with_bias_SC.T @ (12 * wanted_SK.double() - 6)).float()
    layer.weight.copy_(weight_CK[:-1].T.reshape(layer.weight.shape))
    layer.bias.copy_(weight_CK[-1])
