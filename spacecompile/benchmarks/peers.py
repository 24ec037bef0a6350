"""The same network as people run it without spacecompile: PyTorch eager, and the plain ONNX export.

Both are written as a competent user writes them, with the same weights and thread count as the sealed graph, and none
of its code: they are the independent oracle that its answers are checked against as well as the pace to beat. smp is
used as it ships, with its `align_corners` upsampling to the input's size in the head.

Layout legend: N batch, C channels (RGB), H W frame rows and columns, h w input rows and columns, K parts, L classes.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional

from spacecompile.benchmarks.latency import NS_PER_MS
from spacecompile.benchmarks.peer_table import PeerAnswer
from spacecompile.contract import PARTS, ModelSpec
from spacecompile.network.checkpoint import LoadedCheckpoint
from spacecompile.runtime.backends.onnxruntime_import import import_onnxruntime

ort: Any = import_onnxruntime()


def plain_smp_network(checkpoint: LoadedCheckpoint) -> nn.Module:
    """The network of a checkpoint as `segmentation_models_pytorch` builds it, with nothing of ours in it."""
    spec = checkpoint.spec
    network: nn.Module = smp.create_model(
        arch=spec.architecture,
        encoder_name=spec.encoder,
        encoder_weights=None,
        encoder_depth=spec.encoder_depth,
        classes=len(PARTS),
        aux_params={"classes": len(spec.classes), "dropout": spec.dropout},
        **spec.decoder_options,
    )
    network.load_state_dict(checkpoint.network.state_dict())
    return network.eval()


class EagerPeer:
    """PyTorch eager from frame to answer: tensor, resize, normalise, network, sigmoid, resize, threshold, box."""

    name = "pytorch-eager"
    every = 1

    def __init__(self, checkpoint: LoadedCheckpoint, *, threads: int) -> None:
        """Build the network.

        Args:
            checkpoint: Weights and spec.
            threads: For torch, which keeps one number per process, until `close`.
        """
        self._network = plain_smp_network(checkpoint)
        self._spec = checkpoint.spec
        self._mean_NC11 = torch.tensor(self._spec.mean).view(1, 3, 1, 1)
        self._std_NC11 = torch.tensor(self._spec.std).view(1, 3, 1, 1)
        self._thresholds_K11 = torch.tensor(self._spec.part_thresholds).view(-1, 1, 1)
        self._network_ns: int | None = None
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)

    def close(self) -> None:
        """Give torch its number of threads back."""
        torch.set_num_threads(self._threads_before)

    def engine_ms(self) -> float | None:
        """Milliseconds of the network alone in the last call."""
        return None if self._network_ns is None else self._network_ns / NS_PER_MS

    @torch.inference_mode()
    def run(self, frame_HWC: NDArray[np.uint8]) -> PeerAnswer:
        """Answer one frame.

        Returns:
            Class probabilities [L], part masks [K, H, W] and box xyxy.
        """
        input_Nchw = self._input(torch.from_numpy(frame_HWC))
        start_ns = time.perf_counter_ns()
        part_logits_NKhw, class_logits_NL = self._network(input_Nchw)
        self._network_ns = time.perf_counter_ns() - start_ns
        size_px = frame_HWC.shape[:2]
        probs_KHW = functional.interpolate(torch.sigmoid(part_logits_NKhw), size_px, mode="bilinear")[0]
        parts_KHW = probs_KHW > self._thresholds_K11
        box_xyxy = self._box(probs_KHW, parts_KHW)
        return torch.softmax(class_logits_NL[0], dim=0).numpy(), parts_KHW.numpy(), box_xyxy

    def _input(self, frame_HWC: torch.Tensor) -> torch.Tensor:
        frame_NCHW = frame_HWC.permute(2, 0, 1)[None].float() / 255
        size_px = self._spec.input_size_px
        # At exactly half size plain bilinear already averages every pixel, and is twice as fast as the antialiased one.
        halves = frame_HWC.shape[:2] == (2 * size_px[0], 2 * size_px[1])
        resized_NChw = functional.interpolate(frame_NCHW, size_px, mode="bilinear", antialias=not halves)
        return (resized_NChw - self._mean_NC11) / self._std_NC11

    def _box(self, probs_KHW: torch.Tensor, parts_KHW: torch.Tensor) -> NDArray[np.float32]:
        rule = self._spec.box
        shared = all(threshold == rule.threshold for threshold in self._spec.part_thresholds)
        any_HW = (parts_KHW if shared else probs_KHW > rule.threshold).any(dim=0)
        rows, columns = any_HW.any(dim=1).nonzero(), any_HW.any(dim=0).nonzero()
        if not len(rows):
            return np.zeros(4, np.float32)
        edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        return _with_margins(edges, self._spec)


class PlainExportPeer:
    """What a user writes today: plain smp export, Pillow resize, ONNX Runtime with its defaults, NumPy for the rest."""

    name = "plain-export"
    every = 1

    def __init__(self, checkpoint: LoadedCheckpoint, *, threads: int) -> None:
        """Export and load the network.

        Args:
            checkpoint: Weights and spec.
            threads: For ONNX Runtime; everything else keeps its default.
        """
        spec = checkpoint.spec
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(export_plain(checkpoint), options, providers=["CPUExecutionProvider"])
        self._spec = spec
        self._mean_C = np.asarray(spec.mean, np.float32)
        self._std_C = np.asarray(spec.std, np.float32)
        self._thresholds_K11 = np.asarray(spec.part_thresholds, np.float32).reshape(-1, 1, 1)
        self._session_ns: int | None = None

    def close(self) -> None:
        """Free the session."""
        del self._session

    def engine_ms(self) -> float | None:
        """Milliseconds of ONNX Runtime alone in the last call."""
        return None if self._session_ns is None else self._session_ns / NS_PER_MS

    def run(self, frame_HWC: NDArray[np.uint8]) -> PeerAnswer:
        """Answer one frame.

        Returns:
            Class probabilities [L], part masks [K, H, W] and box xyxy.
        """
        height_px, width_px = self._spec.input_size_px
        image = Image.fromarray(frame_HWC).resize((width_px, height_px), Image.Resampling.BILINEAR)
        input_hwC = (np.asarray(image, np.float32) / 255 - self._mean_C) / self._std_C
        input_NChw = np.ascontiguousarray(input_hwC.transpose(2, 0, 1)[None])
        start_ns = time.perf_counter_ns()
        part_logits_NKhw, class_logits_NL = self._session.run(None, {"input": input_NChw})
        self._session_ns = time.perf_counter_ns() - start_ns
        probs_Khw = 1 / (1 + np.exp(-part_logits_NKhw[0]))
        size_px = (frame_HWC.shape[1], frame_HWC.shape[0])
        resized = [Image.fromarray(probs_hw).resize(size_px, Image.Resampling.BILINEAR) for probs_hw in probs_Khw]
        probs_KHW = np.stack([np.asarray(image) for image in resized])
        parts_KHW = probs_KHW > self._thresholds_K11
        exponents_L = np.exp(class_logits_NL[0] - class_logits_NL[0].max())
        return exponents_L / exponents_L.sum(), parts_KHW, self._box(probs_KHW, parts_KHW)

    def _box(self, probs_KHW: NDArray[np.float32], parts_KHW: NDArray[np.bool_]) -> NDArray[np.float32]:
        rule = self._spec.box
        shared = all(threshold == rule.threshold for threshold in self._spec.part_thresholds)
        any_HW: NDArray[np.bool_] = np.any(parts_KHW if shared else probs_KHW > rule.threshold, axis=0)
        rows, columns = np.flatnonzero(any_HW.any(axis=1)), np.flatnonzero(any_HW.any(axis=0))
        if not len(rows):
            return np.zeros(4, np.float32)
        edges = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        return _with_margins(edges, self._spec)


def export_plain(checkpoint: LoadedCheckpoint) -> bytes:
    """The smp network as `torch.onnx.export` writes it, neither rewritten nor simplified."""
    network = plain_smp_network(checkpoint)
    input_NChw = torch.zeros(1, 3, *checkpoint.spec.input_size_px)
    with warnings.catch_warnings():
        # torch's exporter warns about its own and smp's internals, which a user of either can't change.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (input_NChw,),
            dynamo=True,
            verbose=False,
            input_names=["input"],
            output_names=["part_logits", "class_logits"],
        )
    assert program is not None  # with dynamo=True it always returns the program
    model_bytes: bytes = program.model_proto.SerializeToString()
    return model_bytes


def _with_margins(edges_xyxy: tuple[int, int, int, int], spec: ModelSpec) -> NDArray[np.float32]:
    left, top, right, bottom = spec.box.margins_px
    height_px, width_px = spec.frame_size_px
    grown = np.asarray(edges_xyxy, np.float32) + np.asarray((-left, -top, right, bottom), np.float32)
    limits: NDArray[np.float32] = np.asarray((width_px, height_px, width_px, height_px), np.float32)
    return np.minimum(np.maximum(grown, np.float32(0)), limits)
