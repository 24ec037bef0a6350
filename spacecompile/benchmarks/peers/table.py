"""Which peers there are, and opening those that this machine can run. Imports torch only to open one.

A further peer is one more row of `PEERS` and one more class.

Layout legend: H, W frame rows and columns; C channels (RGB); K parts; L classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spacecompile.benchmarks.agreement import Answered
from spacecompile.benchmarks.latency.interleaved import Scope
from spacecompile.contract import ModelSpec, Progress, Tta, no_progress
from spacecompile.errors import SpacecompileError, UsageError

if TYPE_CHECKING:
    from spacecompile.network.checkpoint import LoadedCheckpoint

PeerAnswer: TypeAlias = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]
"""Class probabilities [L], part masks [K, H, W], box xyxy: what a user's own pipeline ends with."""


class PeerContestant(Protocol):
    """A contestant whose answers can be compared."""

    @property
    def name(self) -> str:
        """Of its row in `PEERS`."""

    @property
    def every(self) -> int:
        """See `latency.Contestant`."""

    def run(self, frame_HWC: NDArray[np.uint8]) -> PeerAnswer:
        """Answer one frame."""

    @property
    def tta(self) -> Tta:
        """Its test-time augmentation."""

    @property
    def versions(self) -> str:
        """Of what runs its network."""

    def scopes_ms(self) -> Mapping[Scope, float]:
        """See `latency.Contestant`."""

    def close(self) -> None:
        """Free what it holds and leave the process as it was."""


@dataclass(frozen=True, kw_only=True)
class PeerEntry:
    """One row of the table.

    Attributes:
        name: Key in the results.
        label: What it does, in one line.
        module, factory: Where its factory lies; imported only to open it.
        tta: Test-time augmentation of the peer: it takes part when a variant with the same does.
        cuda: Whether it needs a GPU; without one it is only spoken of when it is asked for by name.
        extra: Extra whose packages the peer needs.
    """

    name: str
    label: str
    module: str
    factory: str
    tta: Tta = "none"
    cuda: bool = False
    extra: str = "compile"

    def open(self, checkpoint: LoadedCheckpoint, *, threads: int) -> PeerContestant:
        """Make the peer ready to run."""
        make: Callable[..., PeerContestant] = getattr(import_module(self.module), self.factory)
        return make(checkpoint, threads=threads)


_TORCH, _PLAIN = "spacecompile.benchmarks.peers.torch_peers", "spacecompile.benchmarks.peers.plain_exports"
_AROUND = "Pillow resize, NumPy, {}, NumPy sigmoid, Pillow resize, threshold, box"

PEERS = (
    PeerEntry(
        name="plain-export",
        label=f"plain smp export: {_AROUND.format('ONNX Runtime')}",
        module=_PLAIN,
        factory="plain_export",
    ),
    PeerEntry(
        name="plain-onnxslim",
        label=f"plain smp export through onnxslim: {_AROUND.format('ONNX Runtime')}",
        module=_PLAIN,
        factory="plain_onnxslim",
        extra="bench",
    ),
    PeerEntry(
        name="plain-ort-offline",
        label=f"plain smp export through ONNX Runtime's offline optimiser: {_AROUND.format('ONNX Runtime')}",
        module=_PLAIN,
        factory="plain_ort_offline",
    ),
    PeerEntry(
        name="plain-openvino",
        label=f"plain smp export: {_AROUND.format('OpenVINO in f32')}",
        module=_PLAIN,
        factory="plain_openvino",
        extra="openvino",
    ),
    PeerEntry(
        name="pytorch-eager",
        label="PyTorch eager: tensor, F.interpolate, smp network, sigmoid, F.interpolate, threshold, box",
        module=_TORCH,
        factory="EagerPeer",
    ),
    PeerEntry(
        name="torch-compile",
        label="PyTorch as pytorch-eager, network through torch.compile",
        module=_TORCH,
        factory="CompiledPeer",
    ),
    PeerEntry(
        name="ttach-d4",
        label="PyTorch as pytorch-eager, eight D4 views by ttach, probabilities averaged",
        module=_TORCH,
        factory="TtachPeer",
        tta="d4",
        extra="bench",
    ),
    PeerEntry(
        name="cuda-eager-fp16",
        label="PyTorch as pytorch-eager on the GPU, network in float16",
        module=_TORCH,
        factory="CudaEagerPeer",
        cuda=True,
    ),
    PeerEntry(
        name="cuda-compile-max-autotune",
        label='PyTorch as cuda-eager-fp16, network through torch.compile(mode="max-autotune")',
        module=_TORCH,
        factory="CudaCompiledPeer",
        cuda=True,
    ),
    PeerEntry(
        name="cuda-onnxruntime",
        label=f"plain smp export: {_AROUND.format('ONNX Runtime CUDA')}",
        module=_PLAIN,
        factory="cuda_onnxruntime",
        cuda=True,
    ),
    PeerEntry(
        name="cuda-tensorrt",
        label=f"plain smp export: {_AROUND.format('TensorRT in float16')}",
        module=_PLAIN,
        factory="cuda_tensorrt",
        cuda=True,
    ),
)
"""In the order of the tables."""

NO_GPU = "no CUDA GPU that PyTorch can use is there; see `spacecompile doctor`"


def chosen_peers(names: Sequence[str], ttas: Iterable[Tta], *, gpu: bool | None = None) -> tuple[PeerEntry, ...]:
    """The rows that take part.

    Args:
        names: Asked for; all that fit when empty.
        ttas: Test-time augmentations of the variants that take part.
        gpu: Whether there is one; looked for if not given.

    Raises:
        UsageError: If a name is unknown.
    """
    known = {entry.name: entry for entry in PEERS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"peer is {unknown[0]!r}; choose among {', '.join(known)}.")
    if names:
        return tuple(entry for entry in PEERS if entry.name in names)
    gpu = has_gpu() if gpu is None else gpu
    augmented = any(tta != "none" for tta in ttas)
    return tuple(entry for entry in PEERS if (gpu or not entry.cuda) and (entry.tta == "none" or augmented))


def has_gpu() -> bool:
    """Whether PyTorch can use a GPU; False without PyTorch."""
    if find_spec("torch") is None:
        return False
    return bool(import_module("torch").cuda.is_available())


def open_peers(
    checkpoint: Path | str,
    spec: ModelSpec,
    *,
    threads: int,
    entries: Sequence[PeerEntry],
    progress: Progress = no_progress,
) -> tuple[list[PeerContestant], dict[str, str]]:
    """Open every peer that can run here.

    Args:
        checkpoint: With the weights; a text says why there is none, and what to do.
        spec: Spec of the bundle, whose task the peers do.
        threads: Number of threads of each peer.
        entries: Rows to open.
        progress: Told the peers done.

    Returns:
        The peers, and for each of the others why it is missing and what adds it.
    """
    if isinstance(checkpoint, str):
        return [], {entry.name: checkpoint for entry in entries}
    opened: list[PeerContestant] = []
    missing: dict[str, str] = {}
    try:
        loaded = import_module("spacecompile.network.checkpoint").load_source(checkpoint, spec)
    except ModuleNotFoundError as error:
        return [], {entry.name: not_installed(error, "compile") for entry in entries}
    except SpacecompileError as error:
        return [], {entry.name: str(error) for entry in entries}
    for done, entry in enumerate(entries):
        progress("open peers", done, len(entries))
        if entry.cuda and not has_gpu():
            missing[entry.name] = NO_GPU
            continue
        try:
            opened.append(entry.open(loaded, threads=threads))
        except ModuleNotFoundError as error:
            missing[entry.name] = not_installed(error, entry.extra)
        except SpacecompileError as error:
            missing[entry.name] = str(error)
        except Exception as error:  # noqa: BLE001  a peer is other people's code: it must not end the run
            missing[entry.name] = failed(error)
    progress("open peers", len(entries), len(entries))
    return opened, missing


def not_installed(error: ModuleNotFoundError, extra: str) -> str:
    """What a failed import lacks, and the command that adds it."""
    return f"the package {error.name} is not installed; add it with: pip install 'spacecompile[{extra}]'"


def failed(error: Exception) -> str:
    """Why a peer does not take part, from what its own code raised."""
    lines = str(error).strip().splitlines() or [""]
    return f"it fails here: {type(error).__name__}: {lines[0]}".removesuffix(": ")


def answered_from_peer(answer: PeerAnswer) -> Answered:
    """A peer's answer in the common form; apart from `run`, since a user needs no packed mask."""
    class_probs_L, parts_KHW, box_xyxy = answer
    bits_K11 = np.asarray([1 << part for part in range(len(parts_KHW))], np.uint8).reshape(-1, 1, 1)
    packed_HW = (parts_KHW * bits_K11).sum(axis=0, dtype=np.uint8)
    return Answered(class_probs_L=class_probs_L, parts_HW=packed_HW, box_xyxy=box_xyxy)
