"""The slim runtime: opens a bundle, checks it and answers frames. Needs the base install only.

Importing it costs a few milliseconds; numpy, the engine and the image decoder are imported by what uses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spacecompile._lazy import lazy_attributes

if TYPE_CHECKING:
    from spacecompile.runtime.answer import Answer
    from spacecompile.runtime.bundle import Bundle, open_bundle
    from spacecompile.runtime.choice import Choice
    from spacecompile.runtime.cuda.answer import DeviceAnswer
    from spacecompile.runtime.cuda.source import DeviceFrame
    from spacecompile.runtime.guard import GuardRule
    from spacecompile.runtime.session import Session, load
    from spacecompile.runtime.ticket import Ticket

__all__ = [
    "Answer",
    "Bundle",
    "Choice",
    "DeviceAnswer",
    "DeviceFrame",
    "GuardRule",
    "Session",
    "Ticket",
    "load",
    "open_bundle",
]

__getattr__ = lazy_attributes(
    "spacecompile.runtime",
    {
        "Answer": "spacecompile.runtime.answer",
        "Bundle": "spacecompile.runtime.bundle",
        "Choice": "spacecompile.runtime.choice",
        "DeviceAnswer": "spacecompile.runtime.cuda.answer",
        "DeviceFrame": "spacecompile.runtime.cuda.source",
        "GuardRule": "spacecompile.runtime.guard",
        "Session": "spacecompile.runtime.session",
        "Ticket": "spacecompile.runtime.ticket",
        "load": "spacecompile.runtime.session",
        "open_bundle": "spacecompile.runtime.bundle",
    },
)
