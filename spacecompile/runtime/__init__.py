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

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spacecompile.runtime.answer import Answer
    from spacecompile.runtime.bundle import Bundle, open_bundle
    from spacecompile.runtime.choice import Choice
    from spacecompile.runtime.guard import GuardRule
    from spacecompile.runtime.session import Session, load

__all__ = ["Answer", "Bundle", "Choice", "GuardRule", "Session", "load", "open_bundle"]

_HOMES = {
    "Answer": "answer",
    "Bundle": "bundle",
    "Choice": "choice",
    "GuardRule": "guard",
    "Session": "session",
    "load": "session",
    "open_bundle": "bundle",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'spacecompile.runtime' has no attribute {name!r}")
    return getattr(import_module(f"spacecompile.runtime.{_HOMES[name]}"), name)
