"""The same network as people ship it: the plain smp export, an engine, Pillow and NumPy around it.

Written as a competent user writes it, with the same weights and thread count as the sealed graph; only the engine, or
what is done to the file before, differs from peer to peer.

Layout legend: N batch, C channels (RGB), H W frame rows and columns, h w input rows and columns, K parts, L classes.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from spacecompile.benchmarks.latency.interleaved import NS_PER_MS, Scope
from spacecompile.benchmarks.peers.box import box_of_parts
from spacecompile.benchmarks.peers.table import PeerAnswer
from spacecompile.benchmarks.peers.torch_peers import plain_smp_network
from spacecompile.contract import Tta
from spacecompile.errors import MissingPartError
from spacecompile.network.checkpoint import LoadedCheckpoint
from spacecompile.runtime.backends.onnxruntime_ import ORT_ERRORS, first_line
from spacecompile.runtime.backends.onnxruntime_import import import_onnxruntime
from spacecompile.runtime.backends.openvino_import import import_openvino, openvino_core

ort: Any = import_onnxruntime()


class PlainEngine(Protocol):
    """What runs a plain export."""

    @property
    def versions(self) -> str:
        """Of the engine."""

    def run(self, input_NChw: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Part logits [N, K, h, w] and class logits [N, L]."""


class OrtEngine:
    """ONNX Runtime with its defaults."""

    def __init__(self, model: bytes, *, threads: int, providers: tuple[Any, ...] = ("CPUExecutionProvider",)) -> None:
        """Load a model.

        Args:
            model: Bytes of an ONNX file.
            threads: Everything else keeps its default.
            providers: Execution providers; the first is the one that is meant.

        Raises:
            MissingPartError: If this ONNX Runtime lacks the first provider, or falls back from it.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        if wanted in ort.get_available_providers():
            if wanted == "CUDAExecutionProvider":
                # As our own session gets them, or the peer would be missing where we are not.
                import_module("spacecompile.runtime.backends.onnxruntime_cuda_").preload_libraries()
            try:
                # Its own fallback would print on stdout.
                self._session = ort.InferenceSession(model, options, providers=list(providers), enable_fallback=0)
            except ORT_ERRORS as error:
                raise MissingPartError(
                    f"ONNX Runtime's {wanted} can't run the plain export: {first_line(error)} Install the libraries "
                    "that its release names."
                ) from error
            used = self._session.get_providers()[0]
        else:
            used = "not there"
        if used != wanted:
            raise MissingPartError(
                f"ONNX Runtime's {wanted} is {used}; add it with: pip install onnxruntime-gpu, and the CUDA libraries "
                "that its release names"
            )
        self.versions = f"onnxruntime {ort.__version__}"

    def run(self, input_NChw: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `PlainEngine`."""
        part_logits_NKhw, class_logits_NL = self._session.run(None, {"input": input_NChw})
        return part_logits_NKhw, class_logits_NL


class OpenVinoEngine:
    """OpenVINO with its latency hint, in float32 as the file is."""

    def __init__(self, model: bytes, *, threads: int) -> None:
        """Compile a model.

        Args:
            model: Bytes of an ONNX file.
            threads: Everything else keeps its default.
        """
        core = openvino_core()
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(model), "CPU", settings)
        self._request = compiled.create_infer_request()
        self.versions = f"openvino {import_openvino().get_version().partition('-')[0]}"

    def run(self, input_NChw: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `PlainEngine`."""
        answers = self._request.infer([input_NChw])
        return answers[0], answers[1]


class PlainExportPeer:
    """What a user writes today: plain smp export, Pillow resize, an engine, NumPy for the rest."""

    every = 1
    tta: Tta = "none"

    def __init__(self, checkpoint: LoadedCheckpoint, engine: PlainEngine, *, name: str, on_gpu: bool = False) -> None:
        """Take over an engine.

        Args:
            checkpoint: Weights and spec.
            engine: Engine that holds the exported network.
            name: Name of the peer's row in the table.
            on_gpu: Whether the engine copies what it is given to a GPU.
        """
        self._scope: Scope = "device" if on_gpu else "engine"
        spec = checkpoint.spec
        self.name = name
        self.versions = engine.versions
        self._engine: PlainEngine | None = engine
        self._spec = spec
        self._mean_C = np.asarray(spec.mean, np.float32)
        self._std_C = np.asarray(spec.std, np.float32)
        self._thresholds_K11 = np.asarray(spec.part_thresholds, np.float32).reshape(-1, 1, 1)
        self._engine_ns: int | None = None

    def close(self) -> None:
        """Free the engine."""
        self._engine = None

    def scopes_ms(self) -> Mapping[Scope, float]:
        """The engine's call, by the host's clock: on a GPU the copies of input and logits are in it."""
        return {} if self._engine_ns is None else {self._scope: self._engine_ns / NS_PER_MS}

    def run(self, frame_HWC: NDArray[np.uint8]) -> PeerAnswer:
        """Answer one frame.

        Returns:
            Class probabilities [L], part masks [K, H, W] and box xyxy.
        """
        assert self._engine is not None  # the benchmark closes it last
        height_px, width_px = self._spec.input_size_px
        image = Image.fromarray(frame_HWC).resize((width_px, height_px), Image.Resampling.BILINEAR)
        input_hwC = (np.asarray(image, np.float32) / 255 - self._mean_C) / self._std_C
        input_NChw: NDArray[np.float32] = np.ascontiguousarray(input_hwC.transpose(2, 0, 1)[None], np.float32)
        start_ns = time.perf_counter_ns()
        part_logits_NKhw, class_logits_NL = self._engine.run(input_NChw)
        self._engine_ns = time.perf_counter_ns() - start_ns
        probs_Khw = 1 / (1 + np.exp(-part_logits_NKhw[0]))
        size_px = (frame_HWC.shape[1], frame_HWC.shape[0])
        resized = [Image.fromarray(probs_hw).resize(size_px, Image.Resampling.BILINEAR) for probs_hw in probs_Khw]
        probs_KHW = np.stack([np.asarray(image) for image in resized])
        parts_KHW = probs_KHW > self._thresholds_K11
        exponents_L = np.exp(class_logits_NL[0] - class_logits_NL[0].max())
        box_xyxy = box_of_parts(probs_KHW, parts_KHW, self._spec, self.tta, to_numpy=np.asarray)
        return exponents_L / exponents_L.sum(), parts_KHW, box_xyxy


@lru_cache(maxsize=1)  # one export serves every engine
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


def slimmed(model: bytes) -> bytes:
    """A model as onnxslim rewrites it."""
    import onnx  # noqa: PLC0415
    import onnxslim  # noqa: PLC0415 - a peer of its own: the others run without it

    slim: Any = onnxslim.slim(onnx.load_model_from_string(model))
    slim_bytes: bytes = slim.SerializeToString()
    return slim_bytes


def optimised_offline(model: bytes) -> bytes:
    """A model as ONNX Runtime's own optimiser writes it for this machine, all optimisations on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(path)
        # It warns that such a file fits this machine only, which is what it is for.
        options.log_severity_level = 3
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return path.read_bytes()


def plain_export(checkpoint: LoadedCheckpoint, *, threads: int) -> PlainExportPeer:
    """The export as it is, on ONNX Runtime."""
    return _on_onnxruntime(checkpoint, "plain-export", threads, lambda model: model)


def plain_onnxslim(checkpoint: LoadedCheckpoint, *, threads: int) -> PlainExportPeer:
    """The export through onnxslim, on ONNX Runtime."""
    return _on_onnxruntime(checkpoint, "plain-onnxslim", threads, slimmed)


def plain_ort_offline(checkpoint: LoadedCheckpoint, *, threads: int) -> PlainExportPeer:
    """The export through ONNX Runtime's offline optimiser, on ONNX Runtime."""
    return _on_onnxruntime(checkpoint, "plain-ort-offline", threads, optimised_offline)


def plain_openvino(checkpoint: LoadedCheckpoint, *, threads: int) -> PlainExportPeer:
    """The export on OpenVINO."""
    return PlainExportPeer(checkpoint, OpenVinoEngine(export_plain(checkpoint), threads=threads), name="plain-openvino")


def cuda_onnxruntime(checkpoint: LoadedCheckpoint, *, threads: int) -> PlainExportPeer:
    """The export on ONNX Runtime's CUDA provider."""
    engine = OrtEngine(export_plain(checkpoint), threads=threads, providers=("CUDAExecutionProvider",))
    return PlainExportPeer(checkpoint, engine, name="cuda-onnxruntime", on_gpu=True)


def cuda_tensorrt(checkpoint: LoadedCheckpoint, *, threads: int) -> PlainExportPeer:
    """The export on TensorRT, through ONNX Runtime's provider of it, float16 allowed."""
    providers = (("TensorrtExecutionProvider", {"trt_fp16_enable": True}), "CUDAExecutionProvider")
    engine = OrtEngine(export_plain(checkpoint), threads=threads, providers=providers)
    return PlainExportPeer(checkpoint, engine, name="cuda-tensorrt", on_gpu=True)


def _on_onnxruntime(
    checkpoint: LoadedCheckpoint, name: str, threads: int, prepare: Callable[[bytes], bytes]
) -> PlainExportPeer:
    engine = OrtEngine(prepare(export_plain(checkpoint)), threads=threads)
    return PlainExportPeer(checkpoint, engine, name=name)
