"""OpenVINO without what it does besides: reporting to its maker, and leaving a trap for signals.

`import openvino` (2025.0 to 2026.4) sends an event over the network from a forked child process, starts a thread and
writes a client id and a usage count into `~/intel`, unless the user has opted out before. A runtime on a target must do
none of that. OpenVINO has a stub for when the package `openvino_telemetry` is absent; it is absent while this imports.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module
from threading import Lock
from typing import Any

_TELEMETRY = "openvino_telemetry"
_locks = [Lock()]
if hasattr(os, "register_at_fork"):  # a fork while another thread holds the lock would leave it held for ever
    os.register_at_fork(after_in_child=lambda: _locks.__setitem__(0, Lock()))


def import_openvino() -> Any:
    """The module `openvino`. What the application imported itself before is left as it is.

    Raises:
        ImportError: If OpenVINO is missing, or one of its libraries can't be loaded.
    """
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        return import_module("openvino")
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # how Python says that an import shall fail
    try:
        return import_module("openvino")
    finally:
        del sys.modules[_TELEMETRY]


def openvino_core() -> Any:
    """The one `Core` of this process, which is never dropped.

    On a CPU with AMX every Core gives the thread that first uses it an alternate stack for signals, and frees it when
    it is dropped (2026.4). Two that are dropped in the order of their making leave the thread with the first one's,
    which is freed memory: the next signal that Python handles, Ctrl-C for one, is a segmentation fault.

    Raises:
        ImportError: If OpenVINO is missing, or one of its libraries can't be loaded.
    """
    with _locks[0]:  # two threads that load at once would make two, and drop one
        # A forked process does not have the threads of the other's Core.
        return _core_of(os.getpid())


@cache
def _core_of(_: int) -> Any:
    return import_openvino().Core()
