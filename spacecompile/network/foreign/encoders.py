"""Which encoders of `segmentation_models_pytorch` and timm have which weights, by fingerprint.

More than a thousand encoders can be named, and to build them all takes minutes. `encoders.txt` holds a fingerprint of
the names and shapes of each one's weights, so that a foreign state dict is looked up. It only says where to look: what
is found is built and compared weight by weight. After an update of smp or timm write it anew with
`python -m spacecompile.network.foreign.encoders spacecompile/network/foreign/encoders.txt`.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spacecompile.files import write_file
from spacecompile.network.head import BUILD_ERRORS

DEPTHS = (5, 4, 3)
"""Numbers of encoder stages, most usual first."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the weights of a module by name."""


_INDEX = "encoders.txt"
_FINGERPRINT_CHARS = 8
_MISSING = "-"


class WithoutWeights(TorchFunctionMode):
    """Modules built inside have weights without memory.

    `torch.device("meta")` does the same but also moves the few numbers that constructors compute with, such as the
    rates of stochastic depth, and they then fail.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Put what `torch.empty` makes on the meta device."""
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without batch norm's counters, which no answer depends on and some converters drop."""
    return {key: tuple(value.shape) for key, value in tensors.items() if not key.endswith("num_batches_tracked")}


def fingerprint(shapes: Shapes) -> str:
    """Eight hexadecimal digits of the names and shapes of an encoder's weights, whatever their order."""
    lines = "\n".join(f"{key} {tuple(shape)}" for key, shape in sorted(shapes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:_FINGERPRINT_CHARS]


def encoders_like(shapes: Shapes) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Encoders whose weights may have these names and shapes.

    Returns:
        Name and possible depths of each, shortest name first: the plain one of several that are alike.
    """
    wanted = fingerprint(shapes)
    found = []
    for name, by_depth in _index().items():
        depths = tuple(depth for depth, known in by_depth.items() if known == wanted)
        if depths:
            found.append((name, depths))
    return tuple(sorted(found, key=lambda entry: (len(entry[0]), entry[0])))


def build_encoder(name: str, depth: int) -> nn.Module:
    """One encoder without weights.

    Raises:
        Exception: One of `BUILD_ERRORS`, if there is none of that name or depth.
    """
    with WithoutWeights(), warnings.catch_warnings():
        # smp deprecates its `timm-` encoders; old checkpoints have them all the same.
        warnings.simplefilter("ignore")
        encoder: nn.Module = smp.encoders.get_encoder(name, depth=depth, weights=None)
    return encoder


@cache
def _index() -> dict[str, dict[int, str]]:
    text = files(__package__).joinpath(_INDEX).read_text(encoding="utf-8")
    entries = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {name: dict(zip(DEPTHS, known, strict=True)) for name, *known in entries}


def index_lines(names: list[str]) -> Iterator[str]:
    """One line per encoder that smp can use: its name and a fingerprint per depth, `-` where it has no such depth."""
    for name in names:
        known = []
        for depth in DEPTHS:
            try:
                known.append(fingerprint(shapes_of(build_encoder(name, depth).state_dict())))
            except BUILD_ERRORS:
                known.append(_MISSING)
        # Much of timm has no pyramid that smp takes, at whatever depth.
        if set(known) != {_MISSING}:
            yield " ".join((name, *known))


def all_encoder_names() -> list[str]:
    """Every name that smp may take."""
    return [*smp.encoders.get_encoder_names(), *(f"tu-{name}" for name in timm.list_models())]


def _write_index(path: Path) -> None:
    """Write the index of the installed versions; takes minutes."""
    versions = f"segmentation_models_pytorch {smp.__version__} and timm {timm.__version__}"
    head = f"# Name and fingerprints at depth 5, 4, 3 of the encoders of {versions}; see encoders.py."
    write_file(path, "\n".join((head, *index_lines(all_encoder_names()))) + "\n")


if __name__ == "__main__":
    _write_index(Path(sys.argv[1]))
