"""Compiler from a trained multi-task perception network to a sealed bundle, and the slim runtime that runs it.

`load` needs the base install only. `build` needs the `compile` extra and imports it when called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spacecompile._version import __version__

__all__ = ["__version__", "build", "load"]

if TYPE_CHECKING:
    from spacecompile.export.build import build
    from spacecompile.runtime.session import load


def __getattr__(name: str) -> Any:
    """Import `build` and `load` on first use, so that `import spacecompile` stays instant (PEP 562)."""
    if name == "build":
        from spacecompile.export.build import build

        return build
    if name == "load":
        from spacecompile.runtime.session import load

        return load
    raise AttributeError(f"module 'spacecompile' has no attribute {name!r}")
