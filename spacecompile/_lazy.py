"""Public names that are imported on first use, so that importing a package stays instant (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_attributes(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: Name of the package.
        homes: Module that defines each public name; `module:name` where it is defined under another name.
    """

    def attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, defined_as = homes[name].partition(":")
        return getattr(import_module(module), defined_as or name)

    return attribute
