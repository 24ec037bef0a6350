"""The slim runtime: opens a bundle, checks it and answers frames. Needs the base install only.

Importing it costs a few milliseconds; numpy, the engine and the image decoder are imported by what uses them.

In the order in which they work:

- `bundle` opens a bundle and hashes what is read; `threads` and `cpu` say what the machine offers.
- `choice` takes a variant; `backends` runs it on a CPU, `cuda` on a GPU, both behind the protocol of `backend`.
- `session` answers frames: `frame_reader` takes them in, `guard` judges the outputs, `answer` is what a user gets,
  `ticket` is an answer to come.
- `selftest` compares answers with those that the bundle holds, `overlay` draws one.
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


def __dir__() -> list[str]:
    return sorted(__all__)
