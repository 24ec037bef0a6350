"""Reading and writing checkpoints without running any code that they hold.

Ours is a dict `{format, spec, training, state_dict}`; `spec` and `training` are plain JSON values, so that
`torch.load(weights_only=True)` reads it. As safetensors the first three are JSON strings in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spacecompile.contract import CHECKPOINT_FORMAT, ModelSpec
from spacecompile.errors import CheckpointError, IntegrityError, UsageError
from spacecompile.files import flush_to_disk, replacing
from spacecompile.network.foreign.adopt import adopt
from spacecompile.network.foreign.encoders import WithoutWeights
from spacecompile.network.foreign.identify import NETWORK_FIELDS
from spacecompile.network.foreign.weights import WRAPPERS, foreign_weights, state_dicts
from spacecompile.network.model import MultiTaskNetwork
from spacecompile.network.run import run_once

CHECKPOINT_FORMAT_PREFIX = CHECKPOINT_FORMAT.rsplit("-", 1)[0]
"""Beginning of the format of every checkpoint of ours, whatever its version."""

# torch's restricted unpickler raises whatever the bytes lead it to, when they are no pickle at all.
_FOREIGN_FILE_ERRORS = (
    *(RuntimeError, EOFError, OSError, ValueError, KeyError),
    *(IndexError, AttributeError, TypeError, AssertionError),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedCheckpoint:
    """A checkpoint in memory.

    Attributes:
        network: Network in float32 on the CPU, in evaluation mode.
        spec: Spec of the network.
        training: Facts about the training as JSON values, such as validation scores; empty when unknown.
        sha256: SHA-256 of the file.
        format: Kind of the file.
        assumed: Facts about a foreign network that neither its weights nor the caller told, one clause each.
    """

    network: MultiTaskNetwork
    spec: ModelSpec
    training: dict[str, Any]
    sha256: str
    format: str
    assumed: tuple[str, ...] = ()


def save_checkpoint(path: Path, network: MultiTaskNetwork, *, training: dict[str, Any], half: bool = False) -> None:
    """Write a checkpoint atomically: an earlier file stays whole until the new one is complete.

    Args:
        path: File to write; ends in `.pt` or `.safetensors`.
        network: Network to store.
        training: Facts about the training as JSON values.
        half: Whether to store floating weights as float16, at half the size; loading gives float32 again.

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
                # Through JSON, so that nothing is stored that the restricted unpickler would refuse.
                "spec": json.loads(json.dumps(spec)),
                "training": json.loads(json.dumps(training)),
                "state_dict": state_dict,
            }
            # By its descriptor: torch.save writes a file's name into the archive.
            with partial_path.open("wb") as stream:
                torch.save(content, stream)
                flush_to_disk(stream)


def _stored(value: Tensor, *, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    # Always a copy: safetensors refuses tensors that share memory.
    return value.half() if half and value.is_floating_point() else value.clone()


@torch.no_grad()
def round_to_half(network: MultiTaskNetwork) -> None:
    """Give the weights the values that half-precision storage will give back."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())


def load_checkpoint(path: Path, *, given: Mapping[str, Any] | None = None) -> LoadedCheckpoint:
    """Read a checkpoint of ours, or any file with the weights of an smp network.

    Args:
        path: File to read: `.safetensors`, or whatever `torch.save` wrote.
        given: Fields of the spec that are known. A foreign network takes them all; ours has its own spec, and the
            fields that say which network it is may not contradict it.

    Raises:
        CheckpointError: If the file is missing, truncated, holds no network that can be identified, does not fit its
            own spec, or does not run on its input.
        UsageError: If what is given can't be, or contradicts the checkpoint.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist or is not a file. Check the path.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    kind = str(content.get("format"))
    training: dict[str, Any] = {}
    assumed: tuple[str, ...] = ()
    if kind.startswith(CHECKPOINT_FORMAT_PREFIX):
        network, training = _ours(content, path, given or {})
    else:
        network, kind, assumed = _foreign(content, path, given or {})
    _require_finite(network, path)
    return LoadedCheckpoint(
        network=network.eval(),
        spec=network.spec,
        training=training,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        format=kind,
        assumed=assumed,
    )


def load_source(path: Path, spec: ModelSpec) -> LoadedCheckpoint:
    """Read the checkpoint of a bundle, under the bundle's own spec.

    Flags of the build may have changed sizes, normalisation and names: whatever is set beside the bundle's files has to
    do the bundle's task, not the one that the checkpoint was trained for.

    Args:
        path: File that the bundle was built from, as its hash says.
        spec: Spec from the bundle's manifest.

    Raises:
        CheckpointError: Same as `load_checkpoint`.
        UsageError: If it is another network than the spec says.
        IntegrityError: If it has another number of classes.
    """
    loaded = load_checkpoint(path, given=msgspec.structs.asdict(spec))
    if len(loaded.spec.classes) != len(spec.classes):
        raise IntegrityError(
            f"the manifest names {len(spec.classes)} classes, its checkpoint has {len(loaded.spec.classes)}: the "
            "manifest was changed. Build the bundle again."
        )
    loaded.network.spec = spec
    return replace(loaded, spec=spec)


def _ours(content: Mapping[str, Any], path: Path, given: Mapping[str, Any]) -> tuple[MultiTaskNetwork, dict[str, Any]]:
    """The network and the training facts."""
    if content["format"] != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} is a checkpoint of format {content['format']!r}; this version reads {CHECKPOINT_FORMAT!r}. Use "
            "the version that wrote it."
        )
    spec = _spec_of(content, path)
    state_dict, training = content["state_dict"], dict(content.get("training", {}))
    for name in (*NETWORK_FIELDS, "part_head", "class_pooling"):
        if given.get(name, getattr(spec, name)) != getattr(spec, name):
            raise UsageError(
                f"{name} is given as {given[name]!r}, but {path} says itself that it is {getattr(spec, name)!r}. Leave "
                "the flag out."
            )
    network = MultiTaskNetwork(spec)
    _load_weights(network, state_dict, path)
    # smp builds some pairs whose decoder then fails on a feature without channels.
    run_once(network.eval(), given.get("input_size_px", spec.input_size_px))
    return network, training


def _spec_of(content: Mapping[str, Any], path: Path) -> ModelSpec:
    """The spec of a checkpoint of ours."""
    try:
        if not isinstance(content["state_dict"], Mapping) or not isinstance(content.get("training", {}), Mapping):
            raise TypeError("state_dict and training must be dicts")
        return msgspec.convert(content["spec"], ModelSpec)
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{path} has an unreadable spec: {error}. Train or convert it again.") from error


def _foreign(
    content: Mapping[str, Any], path: Path, given: Mapping[str, Any]
) -> tuple[MultiTaskNetwork, str, tuple[str, ...]]:
    """The network, what kind of file it was, and what was assumed."""
    weights = foreign_weights(content, path)
    try:
        network, assumed = adopt(weights, given)
    except CheckpointError as error:
        raise CheckpointError(f"{path} ({weights.format}) can't be used: {error}") from error
    return network, weights.format, assumed


def without_cut_layers(network: MultiTaskNetwork, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without those of layers that reach no feature of the encoder: other versions and smp store them.

    Args:
        network: Network to load into; it may have been built without these layers.
        state_dict: Weights by the network's names.
    """
    beyond = state_dict.keys() - network.state_dict().keys()
    if beyond:
        with WithoutWeights():
            beyond &= MultiTaskNetwork(network.spec, whole_encoder=True).state_dict().keys()
    return {key: value for key, value in state_dict.items() if key not in beyond}


def _load_weights(network: MultiTaskNetwork, state_dict: dict[str, Tensor], path: Path) -> None:
    try:
        weights = without_cut_layers(network, state_dict)
        network.load_state_dict({key: _restored(value) for key, value in weights.items()})
    except (RuntimeError, AttributeError) as error:
        first_line = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{path} does not fit its own spec: {first_line}") from error


def _require_finite(network: MultiTaskNetwork, path: Path) -> None:
    bad = [key for key, value in network.state_dict().items() if not torch.isfinite(value.float()).all()]
    if bad:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {len(bad)} tensors, first {bad[0]}. Its training diverged; use an "
            "earlier checkpoint."
        )


def _restored(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def tensors_of_file(path: Path) -> tuple[dict[str, Tensor], ModelSpec | None]:
    """The tensors of a file by name, whatever network they are of: those of its largest state dict.

    Args:
        path: File to read: `.safetensors`, or whatever `torch.save` wrote.

    Returns:
        The tensors, and the spec of a checkpoint of ours; None for any other file.

    Raises:
        CheckpointError: If it can't be read or holds no tensors.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    tensors = max((found for _, found in state_dicts(content)), key=len, default={})
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors, neither by itself nor under {', '.join(WRAPPERS)}.")
    if content.get("format") != CHECKPOINT_FORMAT:
        return tensors, None
    return tensors, _spec_of(content, path)


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects beside tensors, which could run code when loaded, or is not a checkpoint"
            f"{_refused_object(error)}. Save its weights alone where you trust it: "
            'torch.save(model.state_dict(), "weights.pt"), or convert them to safetensors.'
        ) from error
    except _FOREIGN_FILE_ERRORS as error:
        # An empty file raises an EOFError without a message.
        reason = (str(error) or "the file is empty").splitlines()[0]
        raise CheckpointError(f"{path} is truncated or not a torch checkpoint: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; expected a dict: a state dict, or one that holds it."
        )
    return content


def _refused_object(error: pickle.UnpicklingError) -> str:
    """The kind of object that torch's restricted unpickler refused, in words, where it says so."""
    found = re.search(r"GLOBAL (\S+) ", str(error))
    return f" ({found[1]})" if found else ""


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Any] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            if not metadata.get("format", "").startswith(CHECKPOINT_FORMAT_PREFIX):
                return tensors
            facts = {key: json.loads(metadata[key]) for key in ("spec", "training") if key in metadata}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}") from error
    return {**facts, "format": metadata["format"], "state_dict": tensors}
