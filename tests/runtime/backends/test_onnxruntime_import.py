from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CODE = """
import json, os, sys
{importing}
left = "ORT_DISABLE_TELEMETRY" in os.environ
graph = open(sys.argv[1], "rb").read()
onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
from spacecompile.runtime.backends.onnxruntime_ import OnnxRuntimeBackend
OnnxRuntimeBackend(graph, threads=1, spinning=False).close()
print(json.dumps(left))
"""


@pytest.mark.parametrize(
    "importing",
    [
        "from spacecompile.runtime.backends.onnxruntime_import import import_onnxruntime\n"
        "onnxruntime = import_onnxruntime()",
        "import spacecompile.runtime.backends.onnxruntime_, onnxruntime",
        "import spacecompile.export.precision.magnitude, onnxruntime",
    ],
    ids=["function", "backend", "compiler"],
)
def test_the_import_reports_to_nobody(tmp_path: Path, make_graph: Callable[..., bytes], importing: str) -> None:
    """ONNX Runtime's import writes a device id and a queue of events, unless it is switched off before."""
    (tmp_path / "model.onnx").write_bytes(make_graph())
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in {"ORT_DISABLE_TELEMETRY", "CI"}}
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(importing=importing), str(tmp_path / "model.onnx")],
        check=True,
        capture_output=True,
        text=True,
        env=environment | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
    )
    assert json.loads(done.stdout) is False
    assert [path for path in home.rglob("*") if ".onnxruntime" in str(path)] == []
