"""Importing ONNX Runtime without what its import does besides: reporting to its maker.

`import onnxruntime` (1.32 on Linux) writes a device id and a queue of events into `Microsoft/DeveloperTools` of the
user's cache folder, for sending. `disable_telemetry_events()` afterwards is too late. The environment variable
`ORT_DISABLE_TELEMETRY` is read once, while the module loads: sessions that are made after it is gone write nothing
either.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

_SWITCH = "ORT_DISABLE_TELEMETRY"


def import_onnxruntime() -> Any:
    """The module `onnxruntime`. What the application imported itself before is left as it is.

    Raises:
        ImportError: If ONNX Runtime is missing, or one of its libraries can't be loaded.
    """
    if "onnxruntime" in sys.modules or _SWITCH in os.environ:
        return import_module("onnxruntime")
    os.environ[_SWITCH] = "1"
    try:
        return import_module("onnxruntime")
    finally:
        del os.environ[_SWITCH]
