"""Reading and writing checkpoints without running any code that they hold.

Ours is a dict `{format, spec, training, state_dict}`; `spec` and `training` are plain JSON values, so that
`torch.load(weights_only=True)` reads it. As safetensors the first three are JSON strings in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spacecompile.contract import CHECKPOINT_FORMAT, ModelSpec
from spacecompile.errors import CheckpointError
from spacecompile.files import replacing
from spacecompile.network.model import MultiTaskNetwork

# torch's restricted unpickler raises whatever the bytes lead it to, when they are no pickle at all.
_FOREIGN_FILE_ERRORS = (
    *(RuntimeError, EOFError, OSError, ValueError, KeyError),
    *(IndexError, AttributeError, TypeError, AssertionError),
)


@dataclass(frozen=True, kw_only=True)
class LoadedCheckpoint:
    """A checkpoint in memory.

    Attributes:
        network: In float32 on the CPU, in evaluation mode.
        spec: Of the network.
        training: JSON facts about the training, such as validation scores; empty when unknown.
        sha256: Of the file.
        format: What kind of file it was.
    """

    network: MultiTaskNetwork
    spec: ModelSpec
    training: dict[str, Any]
    sha256: str
    format: str


def save_checkpoint(path: Path, network: MultiTaskNetwork, *, training: dict[str, Any], half: bool = False) -> None:
    """Write a checkpoint atomically: an earlier file stays whole until the new one is complete.

    Args:
        path: Ends in `.pt` or `.safetensors`.
        network: To store.
        training: JSON-able facts.
        half: Store floating weights as float16, half the size; loading gives float32 again.

    Raises:
        OutputError: If the file can't be written.
    """
    state_dict = {key: _stored(value, half=half) for key, value in network.state_dict().items()}
    spec = msgspec.to_builtins(network.spec, builtin_types=())
    with replacing(path, errors=(RuntimeError, SafetensorError)) as partial_path:
        if path.suffix == ".safetensors":
            metadata = {"format": CHECKPOINT_FORMAT, "spec": json.dumps(spec), "training": json.dumps(training)}
            save_file(state_dict, partial_path, metadata=metadata)
        else:
            content = {
                "format": CHECKPOINT_FORMAT,
                "spec": json.loads(json.dumps(spec)),
                "training": json.loads(json.dumps(training)),
                "state_dict": state_dict,
            }
            # By its descriptor: torch.save writes a file's name into the archive.
            with partial_path.open("wb") as stream:
                torch.save(content, stream)


def _stored(value: Tensor, *, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.is_floating_point() else value.clone()


def load_checkpoint(path: Path) -> LoadedCheckpoint:
    """Read a checkpoint of ours.

    Raises:
        CheckpointError: If the file is missing, truncated, foreign, or does not fit its own spec.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file. Check the path.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if content.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} is not a spacecompile checkpoint: its format entry is {content.get('format')!r}, expected "
            f"{CHECKPOINT_FORMAT!r}. Write it with `spacecompile train` or spacecompile.network.checkpoint."
        )
    try:
        spec = msgspec.convert(content["spec"], ModelSpec)
        state_dict, training = content["state_dict"], dict(content.get("training", {}))
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{path} has an unreadable spec: {error}. Train or convert it again.") from error
    network = MultiTaskNetwork(spec)
    _load_weights(network, state_dict, path)
    return LoadedCheckpoint(
        network=network.eval(),
        spec=spec,
        training=training,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        format=CHECKPOINT_FORMAT,
    )


def _load_weights(network: MultiTaskNetwork, state_dict: dict[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict({key: _restored(value) for key, value in state_dict.items()})
    except (RuntimeError, AttributeError) as error:
        first_line = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{path} does not fit its own spec: {first_line}") from error
    bad = [key for key, value in network.state_dict().items() if not torch.isfinite(value.float()).all()]
    if bad:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {len(bad)} tensors, first {bad[0]}. Its training diverged; use an "
            "earlier checkpoint."
        )


def _restored(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects beside tensors, which could run code when loaded, or is not a checkpoint. "
            "Save a state dict, or convert it to safetensors."
        ) from error
    except _FOREIGN_FILE_ERRORS as error:
        # An empty file raises an EOFError without a message.
        reason = (str(error) or "the file is empty").splitlines()[0]
        raise CheckpointError(f"{path} is truncated or not a torch checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a dict with format and state_dict.")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            content: dict[str, Any] = {
                key: json.loads(metadata[key]) for key in ("spec", "training") if key in metadata
            }
            content["format"] = metadata.get("format")
            content["state_dict"] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}") from error
    return content
