"""Frames and labels: the SPARK on-disk format, synthetic frames, submission files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacecompile._lazy import lazy_attributes

if TYPE_CHECKING:
    from spacecompile.data.check import SplitFacts, check_split
    from spacecompile.data.labels import LabelledFrame, Split, read_split, usable_split
    from spacecompile.data.render.dataset import render_dataset
    from spacecompile.data.render.settings import RenderSettings

__all__ = [
    "LabelledFrame",
    "RenderSettings",
    "Split",
    "SplitFacts",
    "check_split",
    "read_split",
    "render_dataset",
    "usable_split",
]

__getattr__ = lazy_attributes(
    "spacecompile.data",
    {
        "LabelledFrame": "spacecompile.data.labels",
        "RenderSettings": "spacecompile.data.render.settings",
        "Split": "spacecompile.data.labels",
        "SplitFacts": "spacecompile.data.check",
        "usable_split": "spacecompile.data.labels",
        "check_split": "spacecompile.data.check",
        "read_split": "spacecompile.data.labels",
        "render_dataset": "spacecompile.data.render.dataset",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
