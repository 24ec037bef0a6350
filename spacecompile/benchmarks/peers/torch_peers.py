"""The same network as people run it in PyTorch: eager, compiled, with ttach's test-time augmentation, on CPU or CUDA.

These and the plain exports of `peers_plain` are written as a competent user writes them, with the same weights and
thread count as the sealed graph, and none of its code: they are the independent oracle that its answers are checked
against as well as the pace to beat. smp is used as it ships, with its `align_corners` upsampling to the input's size in
the head.

Layout legend: N batch, C channels (RGB), H W frame rows and columns, h w input rows and columns, K parts, L classes.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from spacecompile.benchmarks.latency.interleaved import NS_PER_MS, Scope
from spacecompile.benchmarks.latency.variants import SLOW_EVERY
from spacecompile.benchmarks.peers.box import box_of_parts
from spacecompile.benchmarks.peers.table import PeerAnswer
from spacecompile.contract import PARTS, Tta
from spacecompile.errors import MissingPartError, first_line_of
from spacecompile.network.checkpoint import LoadedCheckpoint
from spacecompile.network.head import SHUFFLE, shuffle_head


def plain_smp_network(checkpoint: LoadedCheckpoint) -> nn.Module:
    """The network of a checkpoint as `segmentation_models_pytorch` builds it.

    What smp lacks is taken over or left out, which `peer_box.left_out` says: the shuffle head stands in the place of
    smp's, with smp's upsampling behind it; a classifier that looks at the parts is called as it is in training; the box
    head, without which there is still a box, is not there. The encoder is smp's without the layers that the
    checkpoint's lacks, because no feature depends on them.
    """
    spec = checkpoint.spec
    network: Any = smp.create_model(
        arch=spec.architecture,
        encoder_name=spec.encoder,
        encoder_weights=None,
        encoder_depth=spec.encoder_depth,
        classes=len(PARTS),
        aux_params={"classes": len(spec.classes), "dropout": spec.dropout},
        **spec.decoder_options,
    )
    network.encoder = copy.deepcopy(checkpoint.network.encoder)
    if spec.part_head == "shuffle":
        head = network.segmentation_head
        upsampling = nn.UpsamplingBilinear2d(scale_factor=int(head[1].scale_factor) // SHUFFLE)
        network.segmentation_head = nn.Sequential(*shuffle_head(head[0].in_channels), upsampling)
    if spec.class_pooling == "mask":
        network.classification_head = copy.deepcopy(checkpoint.network.classification_head)
    weights = checkpoint.network.state_dict()
    network.load_state_dict({key: weights[key] for key in weights if not key.startswith("box_head.")})
    plain: nn.Module = _PooledUnderParts(network) if spec.class_pooling == "mask" else network
    return plain.eval()


class _PooledUnderParts(nn.Module):
    """An smp network whose classifier also takes the decoder's output and the part logits, not upsampled yet."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        head = list(network.segmentation_head)
        self.encoder, self.decoder = network.encoder, network.decoder
        self.part_logits = nn.Sequential(*(module for module in head if not isinstance(module, nn.Upsample)))
        self.upsampling = nn.Sequential(*(module for module in head if isinstance(module, nn.Upsample)))
        self.classification_head = network.classification_head

    def forward(self, input_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.encoder(input_NCHW)
        decoded_NChw = self.decoder(features)
        part_logits_NKhw = self.part_logits(decoded_NChw)
        class_logits_NL = self.classification_head(features[-1], decoded_NChw, part_logits_NKhw)
        return self.upsampling(part_logits_NKhw), class_logits_NL


class _Stopwatch:
    """Times a block: by the clock on a CPU, by events in the GPU's own queue there, where calls return early.

    Attributes:
        elapsed_ms: Milliseconds of the last block; None before the first.
    """

    def __init__(self, device: torch.device) -> None:
        self.elapsed_ms: float | None = None
        self._start_ns = 0
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            make: Callable[..., torch.cuda.Event] = torch.cuda.Event
            self._events = (make(enable_timing=True), make(enable_timing=True))

    def __enter__(self) -> None:
        if self._events is not None:
            self._events[0].record()
        self._start_ns = time.perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        self.elapsed_ms = (time.perf_counter_ns() - self._start_ns) / NS_PER_MS
        if self._events is not None:
            start, end = self._events
            end.record()
            end.synchronize()
            self.elapsed_ms = float(start.elapsed_time(end))


class EagerPeer:
    """PyTorch eager from frame to answer: tensor, resize, normalise, network, sigmoid, resize, threshold, box."""

    name = "pytorch-eager"
    every = 1
    tta: Tta = "none"

    def __init__(
        self, checkpoint: LoadedCheckpoint, *, threads: int, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """Build the network.

        Args:
            checkpoint: Weights and spec.
            threads: For torch, which keeps one number per process, until `close`.
            device: Where the network and everything around it runs.
            dtype: Data type of the network.
        """
        self._device = torch.device(device)
        self._dtype = dtype
        self._network: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] = plain_smp_network(checkpoint).to(
            self._device, dtype
        )
        # After what may fail: a peer that can't be opened leaves the process as it was.
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)
        self._spec = checkpoint.spec
        self._mean_NC11 = torch.tensor(self._spec.mean, device=self._device).view(1, 3, 1, 1)
        self._std_NC11 = torch.tensor(self._spec.std, device=self._device).view(1, 3, 1, 1)
        self._thresholds_K11 = torch.tensor(self._spec.part_thresholds, device=self._device).view(-1, 1, 1)
        self._stopwatch = _Stopwatch(self._device)

    @property
    def versions(self) -> str:
        """Of what runs the network."""
        return f"torch {torch.__version__}"

    def close(self) -> None:
        """Give torch its number of threads back."""
        torch.set_num_threads(self._threads_before)

    def scopes_ms(self) -> Mapping[Scope, float]:
        """The network alone in the last call, on a GPU by its own events. Copies to a GPU are not told apart."""
        return {} if self._stopwatch.elapsed_ms is None else {"engine": self._stopwatch.elapsed_ms}

    @torch.inference_mode()
    def run(self, frame_HWC: NDArray[np.uint8]) -> PeerAnswer:
        """Answer one frame.

        Returns:
            Class probabilities [L], part masks [K, H, W] and box xyxy.
        """
        input_Nchw = self._input(torch.from_numpy(frame_HWC).to(self._device))
        with self._stopwatch:
            part_probs_NKhw, class_probs_L = self._probabilities(input_Nchw)
        probs_KHW = functional.interpolate(part_probs_NKhw, frame_HWC.shape[:2], mode="bilinear")[0]
        parts_KHW = probs_KHW > self._thresholds_K11
        box_xyxy = box_of_parts(probs_KHW, parts_KHW, self._spec, self.tta, to_numpy=lambda any_: any_.cpu().numpy())
        return class_probs_L.cpu().numpy(), parts_KHW.cpu().numpy(), box_xyxy

    def _probabilities(self, input_Nchw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Part probabilities [1, K, h, w] and class probabilities [L], both float32."""
        part_logits_NKhw, class_logits_NL = self._network(input_Nchw)
        return torch.sigmoid(part_logits_NKhw.float()), torch.softmax(class_logits_NL[0].float(), dim=0)

    def _input(self, frame_HWC: torch.Tensor) -> torch.Tensor:
        frame_NCHW = frame_HWC.permute(2, 0, 1)[None].float() / 255
        size_px = self._spec.input_size_px
        # At exactly half size plain bilinear already averages every pixel, and is twice as fast as the antialiased one.
        halves = frame_HWC.shape[:2] == (2 * size_px[0], 2 * size_px[1])
        resized_NChw = functional.interpolate(frame_NCHW, size_px, mode="bilinear", antialias=not halves)
        return ((resized_NChw - self._mean_NC11) / self._std_NC11).to(self._dtype)


class CompiledPeer(EagerPeer):
    """As `EagerPeer` with the network through `torch.compile`, compiled before anything is timed."""

    name = "torch-compile"

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        *,
        threads: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        mode: str = "default",
    ) -> None:
        """Build and compile the network.

        Args:
            checkpoint: Weights and spec.
            threads: As `EagerPeer`.
            device: As `EagerPeer`.
            dtype: As `EagerPeer`.
            mode: Mode of `torch.compile`.

        Raises:
            MissingPartError: If the C++ compiler that it needs on a CPU is not there.
        """
        if device == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
            raise MissingPartError("torch.compile needs a C++ compiler on a CPU; add one with: apt-get install g++")
        super().__init__(checkpoint, threads=threads, device=device, dtype=dtype)
        self._network = torch.compile(self._network, mode=mode)
        height_px, width_px = self._spec.frame_size_px
        try:
            for _ in range(2):
                self.run(np.zeros((height_px, width_px, 3), np.uint8))
        except RuntimeError as error:
            self.close()
            reason = first_line_of(error)
            raise MissingPartError(
                f"torch.compile fails here ({reason}); PyTorch's own troubleshooting page for torch.compile helps"
            ) from error


class TtachPeer(EagerPeer):
    """As `EagerPeer` with the eight D4 views of the library ttach, one after the other, probabilities averaged."""

    name = "ttach-d4"
    every = SLOW_EVERY
    tta: Tta = "d4"

    def __init__(self, checkpoint: LoadedCheckpoint, *, threads: int) -> None:
        """Build the network; see `EagerPeer`."""
        import ttach  # noqa: PLC0415 - a peer of its own: the others run without it

        self._views = ttach.aliases.d4_transform()
        super().__init__(checkpoint, threads=threads)

    def _probabilities(self, input_Nchw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts, classes = [], []
        for view in self._views:
            part_logits_NKhw, class_logits_NL = self._network(view.augment_image(input_Nchw))
            parts.append(view.deaugment_mask(torch.sigmoid(part_logits_NKhw)))
            classes.append(torch.softmax(view.deaugment_label(class_logits_NL)[0], dim=0))
        return torch.stack(parts).mean(dim=0), torch.stack(classes).mean(dim=0)


class CudaEagerPeer(EagerPeer):
    """As `EagerPeer`, on the first GPU, network in float16."""

    name = "cuda-eager-fp16"

    def __init__(self, checkpoint: LoadedCheckpoint, *, threads: int) -> None:
        """Build the network on the GPU; see `EagerPeer`."""
        super().__init__(checkpoint, threads=threads, device="cuda", dtype=torch.float16)


class CudaCompiledPeer(CompiledPeer):
    """As `CudaEagerPeer` through `torch.compile(mode="max-autotune")`."""

    name = "cuda-compile-max-autotune"

    def __init__(self, checkpoint: LoadedCheckpoint, *, threads: int) -> None:
        """Build and tune the network on the GPU; see `CompiledPeer`."""
        super().__init__(checkpoint, threads=threads, device="cuda", dtype=torch.float16, mode="max-autotune")
