"""From a checkpoint to a certified bundle: rewrite, seal, export, prove, write. Needs the `compile` extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacecompile._lazy import lazy_attributes

if TYPE_CHECKING:
    from spacecompile.export.rewrite.base import Pass

__all__ = [
    "Pass",
]

__getattr__ = lazy_attributes(
    "spacecompile.export",
    {
        "Pass": "spacecompile.export.rewrite.base",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
