"""Public names that are imported on first use, so that importing a package stays instant (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from spacecompile.errors import MissingPartError

_EXTRAS = {"spacecompile.benchmarks": "bench", "spacecompile.train": "train", "spacecompile.export": "compile"}
"""Extra that each stage's packages come with."""


def lazy_attributes(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: Name of the package.
        homes: Module that defines each public name.
    """

    def attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = homes[name]
        try:
            return getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("spacecompile"):
                raise
            extra = next((extra for stage, extra in _EXTRAS.items() if module.startswith(stage)), "all")
            raise MissingPartError(
                f"{package}.{name} needs the package {error.name}, which is not installed. "
                f"Run: pip install 'spacecompile[{extra}]'"
            ) from error

    return attribute
